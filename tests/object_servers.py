"""The child process of ``object_store.py``: serves one kind of object storage on a free port, prints it, ends with its
parent.

``python object_servers.py s3`` is moto's server, ``gs`` is gcp-storage-emulator. Both get what they lack and the tests
are about: moto checks the condition of a conditional put and then stores, and two contenders can pass between; the
emulator knows no conditions at all, and refuses requests while it serves one.
"""

import io
import logging
import os
import sys
import threading
from functools import partial
from http import HTTPStatus


def serve_s3() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    application = OneConditionalPutAtATime(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
    print(server.port, flush=True)
    server.serve_forever()


class OneConditionalPutAtATime:
    """A WSGI middleware that makes conditional puts atomic, as those of S3 are."""

    def __init__(self, application):
        self.application = application
        self.lock = threading.Lock()

    def __call__(self, environ, start_response):
        if environ["REQUEST_METHOD"] != "PUT" or "HTTP_IF_NONE_MATCH" not in environ:
            return self.application(environ, start_response)
        # The body comes in first: a slow client must not hold the lock.
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        with self.lock:
            return list(self.application(environ, start_response))


def serve_gs() -> None:
    from http.server import ThreadingHTTPServer
    from unittest import mock

    from gcp_storage_emulator import server as emulator
    from gcp_storage_emulator.storage import Storage

    storage, lock, handle = Storage(use_memory_fs=True), threading.Lock(), emulator.Router.handle

    def handle_with_conditions(router, method):
        request = emulator.Request(router._request_handler, method)
        uploaded = request.data if method == "POST" and "/upload/" in request.path else None  # read outside the lock
        with lock, mock.patch.object(emulator, "Request", return_value=request):
            if uploaded is not None and request.query.get("ifGenerationMatch") == ["0"]:
                name = request.query["name"][0] if "name" in request.query else uploaded["meta"]["name"]
                bucket = request.path.split("/b/")[1].split("/")[0]
                if name in storage.objects.get(bucket, {}):
                    response = emulator.Response(router._request_handler)
                    response.status = HTTPStatus.PRECONDITION_FAILED
                    response.json({"error": {"code": 412, "message": "conditionNotMet"}})
                    response.close()
                    return
            handle(router, method)

    emulator.Router.handle = handle_with_conditions
    storage._write_config_to_file = lambda: None  # all its metadata after each upload; nobody reads it here
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(emulator.RequestHandler, storage))
    print(server.server_port, flush=True)
    server.serve_forever()


def end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    threading.Thread(target=end_with_parent, daemon=True).start()
    {"s3": serve_s3, "gs": serve_gs}[sys.argv[1]]()
