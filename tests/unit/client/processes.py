"""Programs for the tests of processes: each is run in an interpreter of its own, against the address it is given."""

FORK = """
import os, sys
import numpy as np
from tickserve import Client

client = Client(sys.argv[1], model="m", check_features=False, timeout_s=20.0, transport=sys.argv[2])
assert client.predict(np.zeros(3, np.float32)).rows == 1
children = []
for number in range(3):
    child = os.fork()
    if child == 0:
        answers = [client.predict(np.full(3, number * 100 + call, np.float32)).values[0, 0] for call in range(50)]
        os._exit(0 if answers == [number * 100 + call for call in range(50)] else 7)
    children.append(child)
answers = [client.predict(np.full(3, call, np.float32)).values[0, 0] for call in range(50)]
assert answers == list(range(50)), answers
for child in children:
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status
assert client.predict(np.zeros(3, np.float32)).rows == 1
print("done")
"""

FORK_AMID_CALLS = """
import os, sys, threading
import numpy as np
from tickserve import Client

client = Client(sys.argv[1], model="m", check_features=False, timeout_s=20.0, transport="native")
client.predict(np.zeros(3, np.float32))
is_over = threading.Event()

def ask():
    while not is_over.is_set():
        client.predict(np.zeros(3, np.float32))

threads = [threading.Thread(target=ask) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        # Whatever locks the threads of the parent held at this moment, the child has none of them to wait for.
        os._exit(0 if client.predict(np.zeros(3, np.float32)).rows == 1 else 7)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status
is_over.set()
for thread in threads:
    thread.join()
print("done")
"""

FORK_WITH_STREAM = """
import gc, os, sys
import numpy as np
from tickserve.client.native_channel import find_native
from tickserve.client.native_sync import NativeTransport

transport = NativeTransport(sys.argv[1], None)
channel = transport._channel
stream = channel.stream(channel.method("/tickserve.v1.Prediction/PredictStream"))
assert stream.send(b"")
child = os.fork()
if child == 0:
    try:
        stream.send(b"")
    except RuntimeError as error:
        assert "forked" in str(error), error
        del stream
        gc.collect()
        os._exit(0)
    os._exit(7)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
assert stream.send(b"")
transport.close()
print("done")
"""

EXIT_AMID_CALLS = """
import sys, threading
import numpy as np
from tickserve import Client

client = Client(sys.argv[1], model="m", check_features=False, timeout_s=60.0, transport=sys.argv[2])
begun = threading.Semaphore(0)

def ask():
    begun.release()
    client.predict(np.zeros(3, np.float32))

def read():
    begun.release()
    with client.stream() as stream:
        stream.predict(np.zeros(3, np.float32))

for target in (ask, ask, ask, read):
    threading.Thread(target=target, daemon=True).start()
for _ in range(4):
    begun.acquire()
print("done")
"""

INTERRUPT = """
import os, signal, sys, threading, time
import numpy as np
from tickserve import Client

client = Client(sys.argv[1], model="m", check_features=False, timeout_s=60.0, transport="native")
def interrupt():
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGINT)
try:
    threading.Thread(target=interrupt).start()
    client.predict(np.zeros(3, np.float32))
except KeyboardInterrupt:
    print("done", flush=True)
    os._exit(0)
os._exit(7)
"""

EXIT_WITH_LOOP = """
import asyncio, sys
import numpy as np
from tickserve import aio

async def main():
    client = aio.Client(sys.argv[1], model="m", check_features=False, timeout_s=60.0, transport="native")
    tasks = [asyncio.create_task(client.predict(np.zeros(3, np.float32))) for _ in range(5)]
    await asyncio.sleep(0.2)
    print("done", flush=True)

asyncio.run(main())
"""

FORK_AFTER_CLOSE = """
import os, sys
import numpy as np
from tickserve import Client
from tickserve.errors import StatusError

client = Client(sys.argv[1], model="m", check_features=False, timeout_s=20.0, transport=sys.argv[2])
client.predict(np.zeros(3, np.float32))
client.close()
child = os.fork()
if child == 0:
    try:
        client.predict(np.zeros(3, np.float32))
    except StatusError as error:
        os._exit(0 if "the client is closed" in str(error) else 8)
    os._exit(7)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
print("done")
"""

FORK_OF_SEVERAL = """
import os, sys, threading
import numpy as np
from tickserve import Client

ROW = np.zeros(3, np.float32)
options = {"model": "m", "check_features": False, "timeout_s": 20.0, "transport": sys.argv[2]}
plain = Client([sys.argv[1], "127.0.0.1:1"], **options)
hedging = Client([sys.argv[1], "127.0.0.1:1"], **options, hedge_after_s=10.0, may_execute_twice=True)
closed = Client([sys.argv[1], "127.0.0.1:1"], **options)
for client in (plain, hedging, closed):
    client.predict(ROW)
closed.close()
child = os.fork()
if child == 0:
    try:
        for client in (plain, hedging):
            assert client.predict(ROW).rows == 1
        # Who watches the servers is a thread of this process.
        assert any(thread.name == "tickserve-health" for thread in threading.enumerate())
        plain.close()
        hedging.close()
        assert closed.predict(ROW, default=0.0).is_default
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(7)
    os._exit(0)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
assert plain.predict(ROW).rows == hedging.predict(ROW).rows == 1
print("done")
"""
