"""
A TCP client for tests that runs inside a pod. Reads one JSON command a line, {"id", "op", ...}, does each on a thread
of its own and answers {"id", ...} when done. It speaks the protocol of server.py. See the functions below for what
each `op` takes and gives; `how` is one of HOW's words when a connection fails.
"""
import errno
import hashlib
import json
import os
import select
import socket
import ssl
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from blocks import BLOCK, blocks, digest_of, receive  # noqa: E402

HOW = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EADDRNOTAVAIL: "unreachable",
    errno.ETIMEDOUT: "timeout",
}
output = threading.Lock()
kept = {}
loops = {}


def main():
    for text in sys.stdin:
        command = json.loads(text)
        threading.Thread(target=run, args=(command,), daemon=True).start()


def run(command):
    try:
        answer = OPS[command["op"]](command)
    except (Ended, OSError) as error:
        answer = {"outcome": "refused", "how": how_of(error), "error": str(error)}
        if hasattr(error, "local"):
            answer["local"] = error.local
    except Exception as error:  # the test shows it
        answer = {"outcome": "broken", "how": "broken", "error": repr(error)}
    with output:
        sys.stdout.write(json.dumps({"id": command["id"], **answer}) + "\n")
        sys.stdout.flush()


class Ended(Exception):
    def __init__(self, how, message):
        super().__init__(message)
        self.how = how


def how_of(error):
    if isinstance(error, Ended):
        return error.how
    if isinstance(error, socket.gaierror):
        return "resolve"
    if isinstance(error, TimeoutError):
        return "timeout"
    return HOW.get(error.errno, "error")


# One connection -------------------------------------------------------------------------------------------------------


def probe(command):
    """Connects, reads the greeting, plays one ping. -> {outcome: connected, server, peer, serverLocal, local, remote, ms}"""
    started = time.monotonic()
    with connect(command) as sock:
        local = address(sock.getsockname())
        try:
            facts = greet(sock)
            token = f"p{command['id']}"
            say(sock, f"ping {token}")
            answer = line(sock)
        except (Ended, OSError) as error:
            error.local = local
            raise
        if answer != f"pong {token}":
            raise Ended("garbled", f"sent ping {token}, got {answer!r}")
        facts["ms"] = (time.monotonic() - started) * 1000
        return facts


def open_kept(command):
    """Like probe, but the connection stays, as `conn`."""
    sock = connect(command)
    try:
        facts = greet(sock)
    except BaseException:
        sock.close()
        raise
    kept[command["conn"]] = sock
    return facts


def talk(command):
    """Sends `text` as a line on `conn`, reads one back unless `quiet`. -> {line}"""
    sock = kept[command["conn"]]
    sock.settimeout(command.get("timeout", 10))
    say(sock, command["text"])
    return {"outcome": "connected", "line": "" if command.get("quiet") else line(sock)}


def read_line(command):
    sock = kept[command["conn"]]
    sock.settimeout(command.get("timeout", 10))
    return {"outcome": "connected", "line": line(sock)}


def push(command):
    """Sends `bytes` blocks of `seed` on `conn`, at most until a send takes `timeout`. -> {sent, sum, blocked}"""
    sock = kept[command["conn"]]
    sock.settimeout(command.get("timeout", 30))
    digest = hashlib.sha256()
    sent = 0
    blocked = False
    for block in blocks(command["bytes"], command.get("seed", 1)):
        try:
            done = 0
            while done < len(block):
                done += sock.send(memoryview(block)[done:])
        except TimeoutError:
            blocked = True
        digest.update(block[:done])
        sent += done
        if blocked:
            break
    return {"outcome": "connected", "sent": sent, "sum": digest.hexdigest(), "blocked": blocked}


def pull(command):
    """Reads `bytes` from `conn`. -> {received, sum, wanted: the digest if the bytes are those of `seed`}"""
    sock = kept[command["conn"]]
    sock.settimeout(command.get("timeout", 30))
    digest = hashlib.sha256()
    count = receive(sock, command["bytes"], digest)
    return {
        "outcome": "connected",
        "received": count,
        "sum": digest.hexdigest(),
        "wanted": digest_of(command["bytes"], command.get("seed", 1)),
    }


def end_of(command):
    """Waits until the peer ends `conn`. -> {how: eof | reset | timeout, extra: bytes that came before}"""
    sock = kept[command["conn"]]
    sock.settimeout(command.get("timeout", 10))
    extra = 0
    try:
        while True:
            data = sock.recv(1 << 16)
            if not data:
                return {"outcome": "connected", "how": "eof", "extra": extra}
            extra += len(data)
    except OSError as error:
        return {"outcome": "connected", "how": how_of(error), "extra": extra}


def half_close(command):
    kept[command["conn"]].shutdown(socket.SHUT_WR)
    return {"outcome": "connected"}


def close_kept(command):
    sock = kept.pop(command["conn"])
    if command.get("reset"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    return {"outcome": "connected"}


def upload(command):
    """Sends `bytes` and compares the server's digest. -> {bytes, same, seconds}"""
    with connect(command) as sock:
        greet(sock)
        started = time.monotonic()
        say(sock, f"up {command['bytes']}")
        digest = hashlib.sha256()
        for block in blocks(command["bytes"], command.get("seed", 1)):
            sock.sendall(block)
            digest.update(block)
        answer = line(sock).split()
        same = answer == ["sum", str(command["bytes"]), digest.hexdigest()]
        return {"outcome": "connected", "bytes": command["bytes"], "same": same, "seconds": time.monotonic() - started}


def download(command):
    """Receives `bytes` and compares them with what they must be. -> {bytes, same, seconds}"""
    total, seed = command["bytes"], command.get("seed", 1)
    with connect(command) as sock:
        greet(sock)
        started = time.monotonic()
        say(sock, f"down {total} {seed}")
        digest = hashlib.sha256()
        count = receive(sock, total, digest)
        seconds = time.monotonic() - started
        return {
            "outcome": "connected",
            "bytes": count,
            "same": count == total and digest.hexdigest() == digest_of(total, seed),
            "seconds": seconds,
        }


def hostile(command):
    """Sends `hex` as it is (under TLS when `tls`: {alpn, cert, key}) and reads to the end. -> {received: hex, how}"""
    with connect(command) as sock:
        if "tls" in command:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            if command["tls"].get("max12"):
                context.maximum_version = ssl.TLSVersion.TLSv1_2
            if command["tls"].get("alpn"):
                context.set_alpn_protocols(command["tls"]["alpn"])
            if command["tls"].get("cert"):
                context.load_cert_chain(command["tls"]["cert"], command["tls"]["key"])
            try:
                sock = context.wrap_socket(sock)
            except ssl.SSLError as error:
                return {"outcome": "connected", "received": "", "how": f"tls: {error.reason}"}
        received = b""
        try:
            sock.sendall(bytes.fromhex(command["hex"]))
            if command.get("finish"):
                sock.shutdown(socket.SHUT_WR)
            while len(received) < 1 << 16:
                data = sock.recv(1 << 14)
                if not data:
                    return {"outcome": "connected", "received": received.hex(), "how": "eof"}
                received += data
        except ssl.SSLError as error:
            return {"outcome": "connected", "received": received.hex(), "how": f"tls: {error.reason}"}
        except OSError as error:
            return {"outcome": "connected", "received": received.hex(), "how": how_of(error)}
        return {"outcome": "connected", "received": received.hex(), "how": "more"}


# Many connections -----------------------------------------------------------------------------------------------------


def churn(command):
    """`count` short connections by `workers` threads. -> {ok, failed: {how: count}, seconds}"""
    tally = Tally()
    left = list(range(command["count"]))
    started = time.monotonic()

    def work():
        while True:
            try:
                left.pop()
            except IndexError:
                return
            tally.attempt(command)

    spread(work, command.get("workers", 8))
    return {"outcome": "connected", **tally.facts(), "seconds": time.monotonic() - started}


def start_connecting(command):
    """New connections, one after another on each of `workers` threads, until `stop` of `loop`."""
    tally = Tally()
    stop = threading.Event()

    def work():
        while not stop.is_set():
            tally.attempt(command)
            stop.wait(command.get("pause", 0.01))

    loops[command["loop"]] = (stop, launch(work, command.get("workers", 1)), tally.facts)
    return {"outcome": "connected"}


def start_streams(command):
    """Checksummed echo streams (`workers` of them) until `stop` of `loop`. Each block is compared when it comes back."""
    stop = threading.Event()
    facts = {"bytes": 0, "wrong": 0, "cut": 0, "hows": {}, "maxGapMs": 0, "streams": 0}
    guard = threading.Lock()

    def work():
        try:
            with connect(command) as sock:
                greet(sock)
                say(sock, f"echo {1 << 40}")
                with guard:
                    facts["streams"] += 1
                for block in blocks(1 << 40, command.get("seed", 1)):
                    if stop.is_set():
                        return
                    started = time.monotonic()
                    back = swap(sock, block)
                    gap = (time.monotonic() - started) * 1000
                    with guard:
                        facts["bytes"] += len(back)
                        facts["wrong"] += back != block
                        facts["maxGapMs"] = max(facts["maxGapMs"], gap)
                    stop.wait(command.get("pause", 0.002))
        except (OSError, Ended) as error:
            how = how_of(error)
            with guard:
                facts["cut"] += 1
                facts["hows"][how] = facts["hows"].get(how, 0) + 1

    loops[command["loop"]] = (stop, launch(work, command.get("workers", 1)), lambda: facts)
    return {"outcome": "connected"}


def start_resolving(command):
    """Looks `name` up with a query of its own to `server`:53 over UDP, until `stop` of `loop`. -> {ok, failed, maxMs}"""
    stop = threading.Event()
    facts = {"ok": 0, "failed": 0, "maxMs": 0, "answers": []}
    answers = set()

    def work():
        number = 0
        while not stop.is_set():
            number = (number + 1) & 0xFFFF
            started = time.monotonic()
            got = query(command["server"], command["name"], number, command.get("timeout", 3))
            facts["maxMs"] = max(facts["maxMs"], (time.monotonic() - started) * 1000)
            facts["failed" if got is None else "ok"] += 1
            if got is not None:
                answers.add(got)
                facts["answers"] = sorted(answers)
            stop.wait(command.get("pause", 0.02))

    loops[command["loop"]] = (stop, launch(work, 1), lambda: facts)
    return {"outcome": "connected"}


def progress(command):
    """What a loop has done so far; it goes on."""
    return {"outcome": "connected", **loops[command["loop"]][2]()}


def stop_loop(command):
    stop, threads, facts = loops.pop(command["loop"])
    stop.set()
    for thread in threads:
        thread.join(command.get("timeout", 20))
    return {"outcome": "connected", **facts()}


def resolve(command):
    """The addresses of `host` by the pod's own resolver. -> {addresses}"""
    family = {4: socket.AF_INET, 6: socket.AF_INET6}.get(command.get("family"), 0)
    found = socket.getaddrinfo(command["host"], 1, family, socket.SOCK_STREAM)
    return {"outcome": "connected", "addresses": sorted({entry[4][0] for entry in found})}


class Tally:
    def __init__(self):
        self.guard = threading.Lock()
        self.ok = 0
        self.failed = {}
        self.max_ms = 0
        self.servers = {}
        self.last_error = ""

    def attempt(self, command):
        started = time.monotonic()
        how = None
        server = ""
        try:
            server = probe({**command, "id": threading.get_ident()})["server"]
        except (Ended, OSError) as error:
            how, self.last_error = how_of(error), str(error)
        elapsed = (time.monotonic() - started) * 1000
        with self.guard:
            if how is None:
                self.ok += 1
                self.max_ms = max(self.max_ms, elapsed)
                self.servers[server] = self.servers.get(server, 0) + 1
            else:
                self.failed[how] = self.failed.get(how, 0) + 1

    def facts(self):
        return {
            "ok": self.ok,
            "failed": dict(self.failed),
            "maxMs": self.max_ms,
            "servers": dict(self.servers),
            "lastError": self.last_error,
        }


# Leaves ---------------------------------------------------------------------------------------------------------------


def connect(command):
    family = {4: socket.AF_INET, 6: socket.AF_INET6}.get(command.get("family"), 0)
    found = socket.getaddrinfo(command["host"], command["port"], family, socket.SOCK_STREAM)
    family, _, _, _, target = found[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(command.get("timeout", 10))
    if "sourcePort" in command:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", command["sourcePort"]))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        sock.connect(target)
    except BaseException:
        sock.close()
        raise
    return sock


def greet(sock):
    greeting = json.loads(line(sock))
    return {
        "outcome": "connected",
        "server": greeting["server"],
        "peer": greeting["peer"],
        "serverLocal": greeting["local"],
        "local": address(sock.getsockname()),
        "remote": address(sock.getpeername()),
    }


def swap(sock, block):
    """Sends a block while reading it back, so that neither side can block the other."""
    timeout = sock.gettimeout()
    sent = 0
    back = bytearray()
    while len(back) < len(block):
        writers = [sock] if sent < len(block) else []
        readable, writable, _ = select.select([sock], writers, [], timeout)
        if not readable and not writable:
            raise TimeoutError("nothing moves")
        if writable:
            sent += sock.send(memoryview(block)[sent:])
        if readable:
            data = sock.recv(BLOCK - len(back))
            if not data:
                raise Ended("eof", f"ended after {len(back)} bytes of a block")
            back += data
    return back


def say(sock, text):
    sock.sendall(text.encode() + b"\n")


def line(sock):
    text = b""
    while not text.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte:
            raise Ended("eof", f"ended after {text!r}")
        text += byte
    return text[:-1].decode("latin1")


def query(server, name, number, timeout):
    """One A query. -> addresses joined with commas, None when no answer came."""
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split(".")) + b"\0"
    message = struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + question + struct.pack(">HH", 1, 1)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        try:
            sock.sendto(message, (server, 53))
            data = sock.recv(4096)
        except OSError:
            return None
    if struct.unpack(">H", data[:2])[0] != number:
        return None
    count = struct.unpack(">H", data[6:8])[0]
    at = 12 + len(question) + 4
    found = []
    for _ in range(count):
        while data[at] != 0 and data[at] < 0xC0:
            at += data[at] + 1
        at += 2 if data[at] >= 0xC0 else 1
        kind, _, _, length = struct.unpack(">HHIH", data[at : at + 10])
        at += 10
        if kind == 1:
            found.append(socket.inet_ntoa(data[at : at + 4]))
        at += length
    return ",".join(sorted(found))


def launch(work, workers):
    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    return threads


def spread(work, workers):
    for thread in launch(work, workers):
        thread.join()


def address(name):
    ip = name[0].removeprefix("::ffff:")
    return f"[{ip}]:{name[1]}" if ":" in ip else f"{ip}:{name[1]}"


OPS = {
    "probe": probe,
    "open": open_kept,
    "talk": talk,
    "line": read_line,
    "push": push,
    "pull": pull,
    "end": end_of,
    "halfClose": half_close,
    "close": close_kept,
    "upload": upload,
    "download": download,
    "hostile": hostile,
    "churn": churn,
    "connecting": start_connecting,
    "streams": start_streams,
    "resolving": start_resolving,
    "progress": progress,
    "stop": stop_loop,
    "resolve": resolve,
}
main()
