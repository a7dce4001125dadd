#!/usr/bin/env python3
"""Judges a capture of the wire between the pods.

usage: wire.py tls|plaintext CAPTURE SINCE FROM>TO...

FROM>TO names two pods by number: 1>2 is what pod 1 sent to pod 2. A connection's two directions belong to different
pairs.

tls        For every pair: each connection's bytes, from the first, are whole TLS records; no marker of plaintext
           Artery; and at least MIN_TLS_BYTES of TLS, so that an empty capture is no proof. Of a connection that is
           older than the capture only what it sent after SINCE is judged (seconds since 1970), by the markers.
plaintext  For every pair, markers of plaintext Artery: shows that `tls` would find them.

Prints one line of findings, and exits 1 if they are not as asked.
"""

import collections
import struct
import sys

REMOTING_PORT = 2552
# A connection's handshake alone is about 3 kB; a second of the test application's pings to a peer, 2 kB.
MIN_TLS_BYTES = 4000
# The first bytes of an Artery TCP connection (Akka and Pekko 1; Pekko 2).
CONNECTION_MARKERS = (b"AKKA", b"PEKK")
# Actor paths in its messages. Longer than a chance match in a few megabytes of ciphertext.
MESSAGE_MARKERS = (b"appka@", b"pekko://", b"akka://")
TLS_CONTENT_TYPES = range(20, 24)
TLS_MAX_RECORD = 16384 + 2048  # RFC 5246 section 6.2.3
ETHERTYPE_IPV4 = 0x0800
PROTOCOL_TCP = 6
SYN = 0x02


class Stream:
    """One direction of one TCP connection."""

    def __init__(self):
        self.first_sequence = None  # of the first byte of data; None if the SYN was not captured
        self.segments = {}  # sequence number → longest payload seen there

    def data(self):
        """The bytes from the start up to the first gap."""
        out = bytearray()
        ahead = sorted(((sequence - self.first_sequence) % 2**32, data) for sequence, data in self.segments.items())
        for offset, payload in ahead:
            if offset > len(out):
                break
            out[offset:] = payload if len(payload) >= len(out) - offset else out[offset:]
        return bytes(out)


def packets(capture):
    """(seconds since 1970, frame) of a pcap file, as tcpdump writes it; a last one cut short is left out."""
    with open(capture, "rb") as file:
        header = file.read(24)
        if len(header) < 24 or header[:4] not in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1"):
            sys.exit(f"{capture} is not a little-endian pcap file")
        while len(head := file.read(16)) == 16:
            seconds, _, length, _ = struct.unpack("<4I", head)
            frame = file.read(length)
            if len(frame) < length:
                return
            yield seconds, frame


def streams(capture, since):
    """(source, source port, destination, destination port) → Stream; addresses are pods' numbers."""
    found = collections.defaultdict(Stream)
    for seconds, frame in packets(capture):
        if struct.unpack_from("!H", frame, 12)[0] != ETHERTYPE_IPV4 or frame[23] != PROTOCOL_TCP:
            continue
        ip = 14
        tcp = ip + (frame[ip] & 0x0F) * 4
        end = ip + struct.unpack_from("!H", frame, ip + 2)[0]
        source, destination = (frame[ip + 15] - 10, frame[ip + 19] - 10)  # 10.77.0.11 is pod 1
        source_port, destination_port, sequence = struct.unpack_from("!HHI", frame, tcp)
        if REMOTING_PORT not in (source_port, destination_port):
            continue
        key = (source, source_port, destination, destination_port)
        if frame[tcp + 13] & SYN:
            # A port may be used again; keep what the earlier connection sent under another name.
            if key in found and found[key].segments:
                found[(*key, len(found))] = found.pop(key)
            found[key].first_sequence = (sequence + 1) % 2**32
            continue
        payload = frame[tcp + (frame[tcp + 12] >> 4) * 4 : end]
        stream = found[key]
        if stream.first_sequence is None and seconds < since:
            continue
        if len(payload) > len(stream.segments.get(sequence, b"")):
            stream.segments[sequence] = payload
    return found


def tls_length(data):
    """How many of the bytes, from the first, are TLS records; the last record may be cut short."""
    offset = 0
    while offset + 5 <= len(data):
        content_type, major, length = data[offset], data[offset + 1], struct.unpack_from("!H", data, offset + 3)[0]
        if content_type not in TLS_CONTENT_TYPES or major != 3 or length > TLS_MAX_RECORD:
            return offset
        offset += 5 + length
    return len(data)


def markers(stream):
    """How often plaintext Artery shows in a stream."""
    everything = b"".join(payload for _, payload in sorted(stream.segments.items()))
    count = sum(everything.count(marker) for marker in MESSAGE_MARKERS)
    if stream.first_sequence is not None:
        count += stream.data().startswith(CONNECTION_MARKERS)
    return count


def main():
    if len(sys.argv) < 5 or sys.argv[1] not in ("tls", "plaintext"):
        sys.exit(__doc__)
    expected, capture, since, pairs = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
    seen = {pair: collections.Counter() for pair in pairs}
    for (source, _, destination, *_), stream in streams(capture, since).items():
        counts = seen.get(f"{source}>{destination}")
        if counts is None:
            continue
        counts["markers"] += markers(stream)
        if stream.first_sequence is not None:
            data = stream.data()
            counts["tls"] += tls_length(data)
            counts["plaintext"] += len(data) - tls_length(data)

    if expected == "tls":
        bad = [
            f"{pair}({dict(counts)})"
            for pair, counts in seen.items()
            if counts["tls"] < MIN_TLS_BYTES or counts["plaintext"] or counts["markers"]
        ]
        print(f"wire=tls pairs={len(pairs)} least_tls_bytes={min(c['tls'] for c in seen.values())}", *bad)
    else:
        bad = [f"{pair}({dict(counts)})" for pair, counts in seen.items() if not counts["markers"]]
        print(f"wire=plaintext pairs={len(pairs)} least_markers={min(c['markers'] for c in seen.values())}", *bad)
    sys.exit(1 if bad else 0)


main()
