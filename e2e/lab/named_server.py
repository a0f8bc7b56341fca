"""A server that says its name: to HTTP requests once, to other lines each time, with their number.

python named_server.py NAME PORT
"""

from __future__ import annotations

import socket
import socketserver
import sys

NAME, PORT = sys.argv[1], int(sys.argv[2])
BODY = f"{NAME}\n".encode()


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        line = self.rfile.readline()
        if line.startswith(b"GET"):
            while self.rfile.readline().strip():
                pass
            head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(BODY)}\r\n\r\n"
            self.wfile.write(head.encode() + BODY)
            return
        count = 0
        while line:
            count += 1
            self.wfile.write(f"{NAME} {count}\n".encode())
            line = self.rfile.readline()


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512


Server(("::", PORT), Handler).serve_forever()
