"""Bytes that both ends can make for themselves: every block carries its number, so nothing can be lost or swapped."""
import hashlib
import random

BLOCK = 1 << 16


def blocks(total, seed):
    """Yields the blocks of a stream of `total` bytes."""
    base = bytearray(random.Random(seed).randbytes(BLOCK))
    number = 0
    while total > 0:
        base[:8] = number.to_bytes(8, "big")
        take = min(total, BLOCK)
        yield bytes(base[:take])
        total -= take
        number += 1


def digest_of(total, seed):
    digest = hashlib.sha256()
    for block in blocks(total, seed):
        digest.update(block)
    return digest.hexdigest()


def receive(sock, total, digest):
    """Reads `total` bytes, fewer only when the peer ends first. Returns the count."""
    buffer = bytearray(1 << 18)
    view = memoryview(buffer)
    count = 0
    while count < total:
        got = sock.recv_into(view, min(len(buffer), total - count))
        if got == 0:
            break
        digest.update(view[:got])
        count += got
    return count
