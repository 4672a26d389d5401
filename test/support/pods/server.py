"""
A TCP server for tests. It speaks first: one JSON line with its name and the addresses it sees. Then it obeys lines.

    ping X       pong X
    up N         reads N bytes, answers `sum COUNT SHA256`
    down N SEED  sends N bytes
    echo N       sends back N bytes as they come
    eof          reads until the client is done, answers `sum COUNT SHA256`, closes
    first KEY    ends its own direction at once, reads on until the client is done (see `fate`)
    stall KEY    reads nothing until `resume KEY` comes on another connection, then like eof
    reset        resets the connection
    watch KEY    waits for the end of the connection (see `fate`)
    fate KEY     how another connection ended: open, eof COUNT SHA256, or reset COUNT SHA256
    bye          closes

Usage: server.py NAME PORT...   (listens on IPv4 and IPv6)
"""
import hashlib
import json
import os
import socket
import struct
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from blocks import blocks, receive  # noqa: E402

fates = {}
gates = {}
lock = threading.Lock()
NAME = sys.argv[1]
FOREVER = 1 << 62


def main():
    listeners = [listen(int(port)) for port in sys.argv[2:]]
    for listener in listeners[1:]:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
    accept(listeners[0])


def listen(port):
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", port))
    listener.listen(4096)
    return listener


def accept(listener):
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=guarded, args=(sock,), daemon=True).start()


def guarded(sock):
    try:
        serve(sock)
    except OSError:
        pass
    finally:
        sock.close()


def serve(sock):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    greeting = {"server": NAME, "peer": address(sock.getpeername()), "local": address(sock.getsockname())}
    sock.sendall(json.dumps(greeting).encode() + b"\n")
    while True:
        words = line(sock).split()
        if not words:
            return
        if not obey(sock, words[0], words[1:]):
            return


def obey(sock, verb, args):
    if verb == "ping":
        sock.sendall(f"pong {args[0]}\n".encode())
    elif verb == "up":
        digest = hashlib.sha256()
        count = receive(sock, int(args[0]), digest)
        sock.sendall(f"sum {count} {digest.hexdigest()}\n".encode())
    elif verb == "down":
        for block in blocks(int(args[0]), int(args[1])):
            sock.sendall(block)
    elif verb == "echo":
        left = int(args[0])
        while left > 0:
            data = sock.recv(min(left, 1 << 17))
            if not data:
                return False
            sock.sendall(data)
            left -= len(data)
    elif verb == "eof":
        digest = hashlib.sha256()
        count = receive(sock, FOREVER, digest)
        sock.sendall(f"sum {count} {digest.hexdigest()}\n".encode())
        return False
    elif verb == "first":
        sock.shutdown(socket.SHUT_WR)
        await_end(sock, args[0])
        return False
    elif verb == "stall":
        gate(args[0]).wait()
        digest = hashlib.sha256()
        count = receive(sock, FOREVER, digest)
        sock.sendall(f"sum {count} {digest.hexdigest()}\n".encode())
        return False
    elif verb == "resume":
        gate(args[0]).set()
        sock.sendall(b"ok\n")
    elif verb == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False
    elif verb == "watch":
        sock.sendall(b"ok\n")
        await_end(sock, args[0])
        return False
    elif verb == "fate":
        sock.sendall((fates.get(args[0], "open") + "\n").encode())
    else:
        return False
    return True


def await_end(sock, key):
    digest = hashlib.sha256()
    buffer = bytearray(1 << 18)
    view = memoryview(buffer)
    count = 0
    how = "eof"
    while True:
        try:
            got = sock.recv_into(view)
        except ConnectionResetError:
            how = "reset"
            break
        if got == 0:
            break
        digest.update(view[:got])
        count += got
    fates[key] = f"{how} {count} {digest.hexdigest()}"


def gate(key):
    with lock:
        return gates.setdefault(key, threading.Event())


def line(sock):
    """One line, byte by byte so that nothing behind it is taken. Commands are short."""
    text = b""
    while not text.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte or len(text) > 200:
            return ""
        text += byte
    return text.decode("latin1")


def address(name):
    ip = name[0].removeprefix("::ffff:")
    return f"[{ip}]:{name[1]}" if ":" in ip else f"{ip}:{name[1]}"


main()
