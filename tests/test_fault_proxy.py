"""The proxy that fails on purpose does what it says, and nothing else."""

import contextlib
import http.client
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from fault_proxy import FAULTS, FaultProxy, Faults

PATIENCE = 0.3
BODY = bytes(range(256)) * 1024  # several reads


class Echo(BaseHTTPRequestHandler):
    """Answers with the body it got, or with its path; remembers what arrived whole."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        if len(body) == size:
            self.server.arrived.append((self.command, self.path, len(body)))
        content = body or self.path.encode()
        self.send_response(200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            content = b"3\r\nabc\r\n4;note=1\r\ndefg\r\n0\r\n\r\n"
        elif self.path == "/to-the-end":
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_HEAD = answer

    def log_message(self, *_):
        pass


@pytest.fixture
def upstream():
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        server.arrived = []
        server.handle_error = lambda *_: None  # what the proxy breaks off is no surprise
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def ask(proxy, method="GET", path="/", body=None, connection=None):
    """Send one request; return (status, body), or the name of the error."""
    with contextlib.closing(connection or http.client.HTTPConnection("127.0.0.1", proxy.port, PATIENCE)) as client:
        try:
            client.request(method, path, body)
            answer = client.getresponse()
            return answer.status, answer.read()
        except TimeoutError:
            return "timeout"
        except http.client.IncompleteRead:
            return "broken"
        except ConnectionError:
            return "broken"


def test_without_faults_every_body_arrives_unchanged_both_ways(upstream):
    with FaultProxy(upstream.server_port) as proxy:
        assert ask(proxy, "PUT", "/a%20b?c", BODY) == (200, BODY)
        assert ask(proxy, "PUT", "/empty", b"") == (200, b"/empty")
        assert ask(proxy, "GET", "/chunked") == (200, b"abcdefg")
        assert ask(proxy, "GET", "/to-the-end") == (200, b"/to-the-end")
        assert ask(proxy, "HEAD", "/size") == (200, b"")
        assert proxy.counts == Counter(passed=5)
        assert proxy.received == len(BODY)
    assert ("PUT", "/a%20b?c", len(BODY)) in upstream.arrived


def test_kept_alive_connection_meets_faults_request_by_request(upstream):
    with FaultProxy(upstream.server_port, Faults(slow_down=0.5)) as proxy:
        client = http.client.HTTPConnection("127.0.0.1", proxy.port, PATIENCE)
        statuses = []
        for number in range(40):
            client.request("PUT", f"/{number}", BODY[:100])
            answer = client.getresponse()
            answer.read()
            statuses.append(answer.status)
            assert client.sock is not None, "the proxy closed the connection"
        client.close()
    assert statuses == [503 if Faults(slow_down=0.5).draw(number) else 200 for number in range(40)]
    assert proxy.counts == Counter({"passed": statuses.count(200), "slow down": statuses.count(503)})
    assert len(upstream.arrived) == statuses.count(200), "a request that was answered with 503 went through"


@pytest.mark.parametrize(
    ("fault", "seen", "arrives"),
    [
        ("reset in request", "broken", False),
        ("reset before response", "broken", True),
        ("reset in response", "broken", True),
        ("stall before request", "timeout", False),
        ("stall before response", "timeout", True),
        ("stall in response", "timeout", True),
    ],
)
def test_fault_breaks_where_it_says(upstream, monkeypatch, fault, seen, arrives):
    monkeypatch.setattr(Faults, "draw", lambda self, number: fault)
    with FaultProxy(upstream.server_port, Faults(stall_seconds=3 * PATIENCE)) as proxy:
        started = time.monotonic()
        assert ask(proxy, "PUT", "/x", BODY) == seen
        assert (time.monotonic() - started >= PATIENCE) == (seen == "timeout")
        assert proxy.counts == Counter([fault])
    assert upstream.arrived == ([("PUT", "/x", len(BODY))] if arrives else [])


def test_faults_come_at_their_rates_and_by_their_seed():
    faults = Faults(slow_down=0.05, reset=0.03, stall=0.02)
    drawn = [faults.draw(number) for number in range(10_000)]
    counts = Counter(drawn)
    assert counts["slow down"] / len(drawn) == pytest.approx(0.05, rel=0.15)
    for kind, share in (("reset", 0.03), ("stall", 0.02)):
        for fault in FAULTS:
            if fault.startswith(kind):
                assert counts[fault] / len(drawn) == pytest.approx(share / 3, rel=0.25)
    assert drawn == [Faults(0.05, 0.03, 0.02).draw(number) for number in range(10_000)]
    assert drawn != [Faults(0.05, 0.03, 0.02, seed=1).draw(number) for number in range(10_000)]
    assert Counter(map(bool, (Faults.mixed(1).draw(number) for number in range(1000)))) == {True: 1000}


def test_throttled_body_takes_its_time(upstream):
    with FaultProxy(upstream.server_port, Faults(bytes_a_second=len(BODY) / 0.2)) as proxy:
        started = time.monotonic()
        assert ask(proxy, "PUT", "/slow", BODY) == (200, BODY)
        assert time.monotonic() - started >= 0.2


def test_cut_breaks_off_the_bodies_that_are_on_their_way(upstream):
    with FaultProxy(upstream.server_port, Faults(bytes_a_second=len(BODY))) as proxy:
        answers = []
        client = threading.Thread(target=lambda: answers.append(ask(proxy, "PUT", "/cut", BODY)))
        client.start()
        while proxy.received < len(BODY) / 10:
            assert client.is_alive()
            time.sleep(0.01)
        assert proxy.arriving == ["PUT /cut HTTP/1.1"]
        proxy.cut()
        client.join()
        assert answers == ["broken"]
        assert proxy.received < len(BODY)
        assert proxy.arriving == []
    assert upstream.arrived == []
