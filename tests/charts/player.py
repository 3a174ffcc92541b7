"""A player in sixty lines: enough of RFC 6455 to send commands and read what comes."""
import base64
import json
import os
import socket
import struct


class Player:
    def __init__(self, port: int, token: str, path: str = "/ws") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.stream = self.socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        head = [
            f"GET {path} HTTP/1.1", "Host: localhost", "Connection: Upgrade", "Upgrade: websocket",
            "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", f"Authorization: Bearer {token}", "", "",
        ]
        self.socket.sendall("\r\n".join(head).encode())
        self.status = int(self.stream.readline().split()[1])
        while self.stream.readline() not in (b"\r\n", b""):
            pass
        self.number = 0

    def send(self, **command: object) -> None:
        payload = json.dumps(command).encode()
        mask = os.urandom(4)
        length = struct.pack("!B", 0x80 | len(payload)) if len(payload) < 126 else struct.pack("!BH", 0x80 | 126, len(payload))
        self.socket.sendall(b"\x81" + length + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload)))

    def receive(self) -> dict:
        while True:
            first, second = self.stream.read(2)
            length = second & 0x7F
            if length == 126:
                (length,) = struct.unpack("!H", self.stream.read(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", self.stream.read(8))
            payload = self.stream.read(length)
            match first & 0x0F:
                case 0x1:
                    return json.loads(payload)
                case 0x8:
                    raise EOFError(f"closed: {payload!r}")

    def ask(self, **command: object) -> dict:
        """Sends a command and returns its reply."""
        self.number += 1
        self.send(id=self.number, **command)
        return self.until(lambda frame: frame.get("id") == self.number)

    def until(self, wanted) -> dict:
        while not wanted(frame := self.receive()):
            pass
        return frame

    def leave(self) -> None:
        self.stream.close()
        self.socket.close()
