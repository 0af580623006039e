"""A WebSocket server that sends each short message back, with the standard library alone: websocket_echo.py PORT"""

import base64
import hashlib
import socketserver
import sys

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CLOSE = 8


class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        lines = [line.decode().strip() for line in iter(self.rfile.readline, b"\r\n")]
        headers = [line.split(": ", 1) for line in lines[1:]]
        key = next(value for name, value in headers if name.lower() == "sec-websocket-key")
        accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
        head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self.wfile.write(f"{head}Sec-WebSocket-Accept: {accept}\r\n\r\n".encode())
        opcode = None
        while opcode != CLOSE:
            first, length = self.rfile.read(2)
            opcode, length = first & 15, length & 127
            mask, payload = self.rfile.read(4), self.rfile.read(length)
            self.wfile.write(bytes([first, length]))
            self.wfile.write(bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)))


with socketserver.TCPServer(("127.0.0.1", int(sys.argv[1])), Echo) as server:
    print("listening")
    server.serve_forever()
