"""A sidecar with certificates, an app and peers of its own, in the network namespace of this process."""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import threading
import time
import urllib.request


class Certificates:
    def __init__(self, folder):
        self.folder = folder
        self.curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        self.openssl("req", "-x509", *self.curve, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=shop's CA", "-days", "90")

    def openssl(self, *args):
        subprocess.run(["openssl", *args], cwd=self.folder, check=True, capture_output=True)

    def issue(self, name, days=23):
        """A folder as cert-manager writes it, for service account `name` of namespace shop."""
        to = f"{self.folder}/{name}"
        if os.path.isdir(to):
            return to
        os.mkdir(to)
        names = f"subjectAltName=URI:spiffe://cluster.local/ns/shop/sa/{name}"
        self.sign(to, f"/CN={name}", names, days)
        return to

    def sign(self, to, subject, names, days=23):
        os.makedirs(to, exist_ok=True)
        self.openssl("req", *self.curve, "-keyout", f"{to}/tls.key", "-out", f"{to}/tls.csr", "-subj", subject, "-addext", names)
        self.openssl("x509", "-req", "-in", f"{to}/tls.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                     "-days", str(days), "-copy_extensions", "copy", "-out", f"{to}/tls.crt")
        with open(f"{self.folder}/ca.crt") as ca, open(f"{to}/ca.crt", "w") as copy:
            copy.write(ca.read())

    def context(self, folder, side):
        context = ssl.SSLContext(side)
        context.check_hostname = False
        context.load_verify_locations(f"{folder}/ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(f"{folder}/tls.crt", f"{folder}/tls.key")
        return context


class Echo:
    """Whoever is dialled: the app, or with a context a peer that speaks TLS."""

    def __init__(self, context=None):
        self.context = context
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            stream, _ = self.listener.accept()
            threading.Thread(target=self.echo, args=(stream,), daemon=True).start()

    def echo(self, stream):
        with contextlib.suppress(OSError), stream:
            if self.context:
                stream = self.context.wrap_socket(stream, server_side=True)
            while data := stream.recv(65536):
                stream.sendall(data)


class Sidecar:
    def __init__(self, executable, certificates, *more, target=None, days=23):
        self.app = Echo()
        folder = certificates.issue(f"cart{'' if days == 23 else days}", days)
        peer = Echo(certificates.context(certificates.issue("cart"), ssl.PROTOCOL_TLS_SERVER))
        self.open = []
        # A port that is free when it is chosen may be the browser's a moment later.
        for _ in range(3):
            self.start([executable, "proxy", "--tls-dir", folder, "--bind-address", "127.0.0.1", "--fault-injection",
                        "--inbound-target", self.app.address, "--outbound-target", target or peer.address, *more])
            eventually("the sidecar serves or ends", lambda: self.process.poll() or self.ask("healthz") == "alive\n")
            if self.process.poll() is None:
                return
        raise AssertionError(f"the sidecar ends with {self.process.returncode}")

    def start(self, command):
        self.inbound, self.outbound, self.admin = (free_port() for _ in range(3))
        ports = ["--inbound-port", str(self.inbound), "--outbound-port", str(self.outbound), "--admin-port", str(self.admin)]
        self.process = subprocess.Popen(
            command + ports, env={"PATH": os.environ["PATH"]}, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{self.admin}/"

    def ask(self, path, body=None):
        with contextlib.suppress(OSError), urllib.request.urlopen(self.url + path, body, timeout=5) as answer:
            return answer.read().decode()
        return None

    def status(self):
        return json.loads(self.ask("status"))

    def dial_in(self, source, context=None):
        """A peer at an address of its own; the end of a connection that the app echoes."""
        stream = socket.socket()
        stream.settimeout(10)
        stream.bind((source, 0))
        stream.connect(("127.0.0.1", self.inbound))
        if context:
            stream = context.wrap_socket(stream)
        return self.greet(stream)

    def dial_out(self):
        """The app dials a peer."""
        return self.greet(socket.create_connection(("127.0.0.1", self.outbound), timeout=10))

    def greet(self, stream):
        stream.sendall(b"hello")
        assert stream.recv(5) == b"hello", "no echo"
        self.open.append(stream)
        return stream

    def refuse(self, source, context=None):
        with contextlib.suppress(OSError, AssertionError):
            self.dial_in(source, context)
            raise SystemExit("a stranger was let in")

    def stop(self):
        for stream in self.open:
            stream.close()
        self.process.kill()
        self.process.wait()


class Traffic:
    """Says something on every stream a few times a second, more on the first ones."""

    def __init__(self, streams, weights):
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self.talk, args=(streams, weights), daemon=True)
        self.thread.start()

    def talk(self, streams, weights):
        while not self.ends.wait(0.2):
            for stream, weight in zip(streams, weights):
                with contextlib.suppress(OSError):
                    stream.sendall(b"x" * weight)
                    left = weight
                    while left > 0:
                        left -= len(stream.recv(65536)) or left

    def stop(self):
        self.ends.set()
        self.thread.join()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def eventually(what, poll, seconds=15):
    end = time.monotonic() + seconds
    while True:
        found = poll()
        if found:
            return found
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)
