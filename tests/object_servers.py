"""The child process of ``object_store.py``: serves one kind of object storage on a free port, prints it, ends with its
parent.

``python object_servers.py s3`` is moto's server, ``gs`` is gcp-storage-emulator. Both get what they lack and the tests
are about: moto checks the condition of a conditional put and then stores, so that two contenders can pass; the emulator
knows neither conditions nor pages, stores bodies that broke off, and serves one request at a time.
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

    storage, lock = Storage(use_memory_fs=True), threading.Lock()
    handle, make_request, read_body = emulator.Router.handle, emulator.Request, emulator._read_raw_data

    def read_whole_body(handler):
        body = read_body(handler)
        if len(body or b"") < int(handler.headers.get("Content-Length") or 0):
            raise ConnectionError("the client left in the middle")
        return body

    def handle_one(router, method):
        request = make_request(router._request_handler, method)
        body = request.data  # read before the lock is taken: a slow client must not hold it
        response = emulator.Response(router._request_handler)
        with lock, mock.patch.object(emulator, "Request", return_value=request):
            bucket = request.path.partition("/b/")[2].partition("/")[0]
            if method == "GET" and request.path.endswith(f"/b/{bucket}/o") and bucket in storage.buckets:
                response.json(page(storage, bucket, request.query))
            elif request.query.get("ifGenerationMatch") == ["0"] and name_of(body) in storage.objects.get(bucket, {}):
                response.status = HTTPStatus.PRECONDITION_FAILED
                response.json({"error": {"code": 412, "message": "conditionNotMet"}})
            else:
                handle(router, method)
                return
        response.close()

    emulator.Router.handle, emulator._read_raw_data = handle_one, read_whole_body
    storage._write_config_to_file = lambda: None  # all its metadata after each upload; nobody reads it here
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(emulator.RequestHandler, storage))
    server.handle_error = lambda *_: None
    print(server.server_port, flush=True)
    server.serve_forever()


def name_of(upload) -> str:
    """Return the name of the object that an upload begins."""
    return upload.get("meta", upload)["name"]


def page(storage, bucket, query):
    """Answer a listing page by page; the token is the last name of the page before."""
    (prefix,), (delimiter,) = query.get("prefix", [None]), query.get("delimiter", [None])
    (after,), (most,) = query.get("pageToken", [""]), query.get("maxResults", ["1000"])
    files, prefixes = storage.get_file_list(bucket, prefix, delimiter)
    names = sorted(
        [*((file["name"], file) for file in files), *((name, None) for name in prefixes)], key=lambda e: e[0]
    )
    left = [entry for entry in names if entry[0] > after]
    chosen = left[: int(most)]
    answer = {
        "kind": "storage#objects",
        "items": [file for _, file in chosen if file is not None],
        "prefixes": [name for name, file in chosen if file is None],
    }
    if len(left) > len(chosen):
        answer["nextPageToken"] = chosen[-1][0]
    return answer


def end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    threading.Thread(target=end_with_parent, daemon=True).start()
    {"s3": serve_s3, "gs": serve_gs}[sys.argv[1]]()
