#!/usr/bin/env python3
"""A server in Python that takes part in what its monitor does: `muster monitor … -- python3 tests/app_channel.py`.

The monitor names a Unix socket in MUSTER_APP_SOCKET; both sides speak lines of JSON. What happens is printed.
"""

import json
import os
import signal
import socket
import sys
import time


def say(channel, message):
    channel.write(json.dumps(message) + "\n")
    channel.flush()


def tell(text):
    print(text, flush=True)


def answer(settings, ask):
    """The answer to {"ask": verb, "key": name, "value": …}."""
    verb, key = ask["ask"], ask["key"]
    if key == "locked" and verb != "get":
        return {"error": "locked is not to be changed"}
    if verb == "get":
        return {"value": settings.get(key)}
    settings[key] = {"set": ask.get("value"), "enable": True, "disable": False}[verb]
    return {"value": True}


def take_part(path, settings):
    """Returns when the monitor is gone."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    channel = connection.makefile("rw", encoding="utf-8")
    say(channel, {"settings": settings})
    logins = [{"uid": "anna", "address": "10.1.2.3", "loginTime": "now"}]
    say(channel, {"connections": {"totalConnCount": 3, "loginedCount": 1, "loginedList": logins}})
    say(channel, {"answers": ["get", "set", "enable", "disable"]})
    for line in channel:
        message = json.loads(line)
        if "ask" in message:
            say(channel, {"answer": {"id": message["id"], **answer(settings, message)}})
        elif "event" in message:
            event = message["event"]
            tell("event " + json.dumps(event, separators=(",", ":")))
            if event == "stopping":
                sys.exit(0)
        elif "hello" in message:
            tell("hello " + message["hello"]["id"])


def main():
    settings = {"mode": "fast", "locked": True}
    while True:
        # SIGTERM comes with the event `stopping`, and may be faster: who has a channel waits for the event.
        signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            take_part(os.environ["MUSTER_APP_SOCKET"], settings)
        except OSError as error:
            print(error, file=sys.stderr)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # The monitor may be restarted while this server runs on: it is looked for again.
        time.sleep(0.2)


if __name__ == "__main__":
    main()
