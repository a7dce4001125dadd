#!/usr/bin/env python3
"""A stand-in for a mesh's proxy: takes what the mesh's outbound rules redirect, and passes it on unchanged.

usage: mesh_proxy.py

Listens on Istio's outbound port. Prints `captured ADDRESS:PORT` for every connection, so that a test can tell what the
mesh got to see and what bypassed it. Runs as the mesh's uid, whose own connections the mesh's rules let out.
"""

import asyncio
import socket
import struct

OUTBOUND_PORT = 15001
SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h


def original_destination(sock):
    """Where the application dialled, before the rules redirected it."""
    address = sock.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
    port, ip = struct.unpack_from("!2xH4s", address)
    return socket.inet_ntoa(ip), port


async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


async def serve(reader, writer):
    host, port = original_destination(writer.get_extra_info("socket"))
    print(f"captured {host}:{port}", flush=True)
    try:
        upstream_reader, upstream_writer = await asyncio.open_connection(host, port)
    except OSError:
        writer.close()
        return
    await asyncio.gather(copy(reader, upstream_writer), copy(upstream_reader, writer))
    upstream_writer.close()
    writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", OUTBOUND_PORT)
    print("listening", flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(main())
