import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from support.service import free_ports
from tuneloop.errors import InvalidInput
from tuneloop.service import ports


def test_bind_listens_on_a_free_port():
    (port,) = free_ports(1)
    with ports.bind("127.0.0.1", port, "TUNELOOP_PORT") as listener:
        assert listener.getsockname() == ("127.0.0.1", port)
        socket.create_connection(("127.0.0.1", port)).close()


def test_a_port_that_was_just_given_up_is_free():
    (port,) = free_ports(1)
    with ports.bind("127.0.0.1", port, "TUNELOOP_PORT") as listener:
        client = socket.create_connection(("127.0.0.1", port))
        listener.accept()[0].close()  # leaves a connection in TIME_WAIT
        client.close()
    ports.check("127.0.0.1", port, "TUNELOOP_PORT")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_taken_port_is_named_with_the_variable_to_change(host):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InvalidInput, match=f"port {port} is taken .*TUNELOOP_MLFLOW_PORT"):
            ports.check(host, port, "TUNELOOP_MLFLOW_PORT")


def test_a_program_on_the_other_localhost_is_noticed():
    try:
        other = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with other, pytest.raises(InvalidInput, match="is taken"):
        ports.check("127.0.0.1", other.getsockname()[1], "TUNELOOP_PORT")


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(InvalidInput, match="TUNELOOP_HOST"):
        ports.check("192.0.2.1", free_ports(1)[0], "TUNELOOP_PORT")
    with pytest.raises(InvalidInput, match="TUNELOOP_HOST"):
        ports.check("no.such.name.invalid", free_ports(1)[0], "TUNELOOP_PORT")


def test_get_reads_json_and_tells_silence_from_an_answer():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(503)
            self.end_headers()
            self.wfile.write(b'{"status": "down"}' if self.path == "/json" else b"plain")

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert ports.get("0.0.0.0", server.server_port, "/json") == (503, {"status": "down"})
        assert ports.get("127.0.0.1", server.server_port, "/plain") == (503, None)
    finally:
        server.shutdown()
        server.server_close()
    assert ports.get("127.0.0.1", server.server_port, "/json") is None
