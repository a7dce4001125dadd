"""A headless Chromium, by the WebDriver protocol over plain HTTP."""

import base64
import json
import subprocess
import time
import urllib.error
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's id, WebDriver 2, section 12


class Browser:
    def __init__(self, port, profile):
        self.log = open(f"{profile}/chromedriver.log", "w+")
        self.process = subprocess.Popen(["chromedriver", f"--port={port}"], stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=subprocess.STDOUT)
        self.base = f"http://127.0.0.1:{port}"
        self.session = None
        # The sandbox needs a user who is not root; what it would keep out is our own page alone.
        arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars",
                     "--disable-background-networking", f"--user-data-dir={profile}/chromium"]
        wanted = {"browserName": "chrome", "goog:chromeOptions": {"args": arguments},
                  "goog:loggingPrefs": {"browser": "ALL"}}
        self.wait_until_it_listens()
        answer = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.session = f"/session/{answer['sessionId']}"

    def wait_until_it_listens(self):
        end = time.monotonic() + 20
        while True:
            try:
                return self.call("GET", "/status")
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def call(self, method, path, body=None):
        request = urllib.request.Request(self.base + path, method=method, headers={"Content-Type": "application/json"},
                                         data=None if body is None else json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def post(self, path, **body):
        return self.call("POST", self.session + path, body)

    def open(self, url):
        self.post("/url", url=url)

    def run(self, script, *arguments):
        return self.post("/execute/sync", script=script, args=list(arguments))

    def text(self, selector):
        """What a person sees there; empty if it is hidden."""
        return self.run("const node = document.querySelector(arguments[0]); return node && node.checkVisibility() ? node.innerText : '';", selector)

    def type(self, selector, text):
        element = self.post("/element", using="css selector", value=selector)
        self.post(f"/element/{element[ELEMENT]}/value", text=text)

    def click(self, selector):
        element = self.post("/element", using="css selector", value=selector)
        self.post(f"/element/{element[ELEMENT]}/click")

    def console(self):
        """What the console has been told since the last question."""
        return [f"{entry['level']}: {entry['message']}" for entry in self.post("/se/log", type="browser")]

    def devtools(self, command, **parameters):
        return self.post("/goog/cdp/execute", cmd=command, params=parameters)

    def scheme(self, name):
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def size(self, width, height, phone=False):
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def screenshot(self, file):
        with open(file, "wb") as png:
            png.write(base64.b64decode(self.call("GET", self.session + "/screenshot")))

    def stop(self):
        try:
            if self.session:
                self.call("DELETE", self.session)
        finally:
            self.process.terminate()
            self.process.wait()
            self.log.close()
