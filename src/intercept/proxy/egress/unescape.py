"""Decodes the escapes of a text. `src/mask/src/unescape.rs` explains the algorithm."""

from __future__ import annotations

import re
from bisect import bisect_right

SPECIAL = re.compile(rb"[\\%]")
# Common escapes, which one match decodes.
USUAL = re.compile(
    rb"%(?!25|5[cC])([0-9a-fA-F]{2})|\\{1,31}(?:([^\\%bfnrtux])|([bfnrt]))", re.DOTALL
)
HEX = re.compile(rb"[0-9a-fA-F]*")
# The most layers of percent-encoding, and the most backslashes of one escape.
LAYERS = 4
BACKSLASHES = 32
BACKSLASH, PERCENT = b"\\%"
CONTROLS = {ord("b"): 8, ord("f"): 12, ord("n"): 10, ord("r"): 13, ord("t"): 9}


def has_escapes(text: bytes) -> bool:
    return b"\\" in text or b"%" in text


class Unescaped:
    """The decoded bytes, and the position of each in the text."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.at = 0
        self.met_end = False
        self.data = bytearray()
        # Per escape: where its bytes begin; where they end, and its span in the text.
        self.begins: list[int] = []
        self.escapes: list[tuple[int, int, int]] = []
        # Where an escape begins that may continue after the text, and the length decoded before it.
        self.open, self.decided = len(text), -1
        self.decode()

    def decode(self) -> None:
        while (special := SPECIAL.search(self.text, self.at)) is not None:
            origin = special.start()
            self.data += self.text[self.at : origin]
            begin, usual = len(self.data), USUAL.match(self.text, origin)
            if usual is None:
                self.at = origin
                self.escape()
            else:
                self.at = usual.end()
                byte, itself, control = usual.groups()
                self.data += itself or (bytes.fromhex(byte.decode()) if byte else b"")
                if control:
                    self.data.append(CONTROLS[control[0]])
            self.begins.append(begin)
            self.escapes.append((len(self.data), origin, self.at))
            if self.met_end and self.decided < 0:
                self.open, self.decided = origin, begin
        self.data += self.text[self.at :]
        if self.decided < 0:
            self.decided = len(self.data)

    def escape(self) -> None:
        byte = self.byte()
        for _ in range(1, BACKSLASHES):
            if byte != BACKSLASH:
                break
            escaped = self.escaped()
            if escaped is None:
                return
            code = CONTROLS.get(escaped)
            if escaped == ord("x"):
                code = self.hex(2)
            elif escaped == ord("u"):
                code = self.hex(4)
                if code is not None and code >= 0x80:
                    self.unit(code)
                    return
            byte = escaped if code is None else code
            if code is None:
                break
        self.data.append(byte)

    def byte(self) -> int:
        byte = self.text[self.at]
        self.at += 1
        if byte != PERCENT:
            return byte
        end = self.at
        for layer in range(LAYERS):
            value = self.hex_at(self.at + 2 * layer, 2)
            if value is None:
                break
            byte, end = value, self.at + 2 * layer + 2
            if value != PERCENT:
                break
        self.at = end
        return byte

    def escaped(self) -> int | None:
        for _ in range(1, BACKSLASHES):
            if self.at == len(self.text):
                self.met_end = True
                return None
            byte = self.byte()
            if byte != BACKSLASH:
                return byte
        return BACKSLASH

    def unit(self, unit: int) -> None:
        if 0xD800 <= unit < 0xDC00:
            after = self.at
            low = self.low_surrogate()
            if low is None:
                self.at = after
            else:
                unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00)
        lone = 0xD800 <= unit < 0xE000
        self.data += ("\ufffd" if lone else chr(unit)).encode()

    def low_surrogate(self) -> int | None:
        if self.at == len(self.text):
            self.met_end = True
            return None
        if self.byte() != BACKSLASH or self.escaped() != ord("u"):
            return None
        low = self.hex(4)
        return low if low is not None and 0xDC00 <= low < 0xE000 else None

    def hex(self, digits: int) -> int | None:
        value = self.hex_at(self.at, digits)
        if value is not None:
            self.at += digits
        return value

    def hex_at(self, at: int, digits: int) -> int | None:
        found = HEX.match(self.text, at, at + digits)[0] if at <= len(self.text) else b""
        if len(found) == digits:
            return int(found, 16)
        self.met_end = self.met_end or at + len(found) >= len(self.text)
        return None

    def start(self, byte: int) -> int:
        """Where a byte begins in the text."""
        index = bisect_right(self.begins, byte) - 1
        if index < 0:
            return byte
        end, origin, after = self.escapes[index]
        return origin if byte < end else after + byte - end

    def end(self, byte: int) -> int:
        """Where a byte ends in the text."""
        index = bisect_right(self.begins, byte) - 1
        if index >= 0 and byte < self.escapes[index][0]:
            return self.escapes[index][2]
        return self.start(byte) + 1
