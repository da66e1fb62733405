"""The works of PyTorch on the CPU: run.ts asks on standard input, one JSON object a line, as protocol.ts says."""

import json
import math
import os
import sys
import time

import numpy as np

try:
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(int(os.environ.get("COMPARE_THREADS", "1")))
    MISSING = None
except ImportError as error:
    MISSING = str(error)

LONG, ROWS, DISPATCHES, RESTART = 10_000_000, 1024, 200, 100
ADAM = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
ADAM_STEPS = 10
CONVS = {"conv-first": (32, 1, 28, 32), "conv-inner": (32, 32, 14, 64)}


def uniform(seed, shape, low=0.0, high=1.0):
    """The numbers of inputs.ts."""
    size = math.prod(shape)
    h = np.arange(size, dtype=np.uint32) * np.uint32(0x9E3779B9)
    h += np.uint32(seed * 0x85EBCA6B & 0xFFFFFFFF)
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x21F0AAAD)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0x735A2D97)
    h ^= h >> np.uint32(15)
    u = (h >> np.uint32(8)).astype(np.float64) / 2**24
    return torch.from_numpy((low + (high - low) * u).astype(np.float32)).reshape(shape)


def probe(*results):
    shown = []
    for y in results:
        y = y.detach().reshape(-1)
        step = max(1, y.numel() // 13)
        shown += [y[i * step].item() for i in range(min(13, y.numel()))]
        shown.append(y.double().norm().item())
    return shown


def norm(leaves):
    return [math.sqrt(sum(leaf.double().square().sum().item() for leaf in leaves))]


def work(run, show=None):
    def shown():
        y = run()
        return probe(*y) if isinstance(y, (tuple, list)) else probe(y)

    return dict(mode="eager", run=run, show=show or shown)


def matmul(n):
    a, b = uniform(1, (n, n), -1, 1), uniform(2, (n, n), -1, 1)

    def show():
        c = a @ b
        return [c[0, 0].item(), c[n // 2, n - 1].item(), c[n - 1, 1].item()]

    return work(lambda: a @ b, show)


def long(f, low=-3.0, high=3.0):
    x = uniform(4, (LONG,), low, high)
    return work(lambda: f(x))


def chain(x):
    square = x * x
    return (torch.exp(-square) + square).sqrt() * 0.5 + x / (1 + x.abs())


def total():
    x = uniform(4, (LONG,), 0, 2)
    return work(lambda: x.sum(), lambda: [x.sum().item()])


def layer_norm():
    x, ct = uniform(5, (ROWS, ROWS), -4, 4), uniform(6, (ROWS, ROWS), -1, 1)
    scale, offset = torch.ones(ROWS), torch.zeros(ROWS)
    inputs = [t.requires_grad_() for t in (x, scale, offset)]

    def run():
        y = F.layer_norm(x, (ROWS,), scale, offset, 1e-5)
        return [y, *torch.autograd.grad(y, inputs, ct)]

    return work(run)


def conv(name, backward):
    n, c, s, o = CONVS[name]
    x, w = uniform(1, (n, c, s, s), -1, 1), uniform(2, (o, c, 3, 3), -1, 1)
    ct = uniform(3, (n, o, s - 2, s - 2), -1, 1)
    if not backward:
        return work(lambda: F.conv2d(x, w))
    x.requires_grad_(), w.requires_grad_()

    def run():
        y = F.conv2d(x, w)
        return [y, *torch.autograd.grad(y, (x, w), ct)]

    return work(run)


def network():
    shapes = [(784, 512), (512,), (512, 256), (256,), (256, 10), (10,)]
    params, direction = [], []
    for i, shape in enumerate(shapes):
        bound = math.sqrt(6 / shape[0]) if len(shape) == 2 else 0
        params.append(uniform(10 + i, shape, -bound, bound).requires_grad_())
        direction.append(uniform(50 + i, shape, -0.05, 0.05))
    x, labels = uniform(1, (128, 784)), torch.arange(128) % 10

    def loss():
        y = x
        for i in range(0, len(params), 2):
            y = torch.addmm(params[i + 1], y, params[i])
            if i < len(params) - 2:
                y = torch.relu(y)
        return F.cross_entropy(y, labels)

    return params, direction, loss


def adam():
    params, _, loss = network()
    initial = [p.detach().clone() for p in params]
    state = {}

    def restart():
        with torch.no_grad():
            for p, start in zip(params, initial):
                p.copy_(start)
        state.update(optimizer=torch.optim.Adam(params, **ADAM), count=0)

    def step():
        state["optimizer"].zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        state["optimizer"].step()
        return value

    def run():
        if state["count"] == RESTART:
            restart()
        state["count"] += 1
        return step()

    def show():
        restart()
        return [[run().item() for _ in range(ADAM_STEPS)][-1]]

    return work(run, show)


def gradient():
    params, _, loss = network()
    run = lambda: torch.autograd.grad(loss(), params)
    return work(run, lambda: norm(run()))


def hvp():
    params, direction, loss = network()

    def run():
        gradient = torch.autograd.grad(loss(), params, create_graph=True)
        return torch.autograd.grad(gradient, params, direction)

    return work(run, lambda: norm(run()))


def dispatch(f):
    start, y = uniform(1, (8, 8)), uniform(2, (8, 8))

    def run():
        x = start
        for _ in range(DISPATCHES):
            x = f(x, y)
        return x

    return work(run)


def scripted():
    def half_sum(x, y):
        return (x + y) * 0.5

    inputs = uniform(1, (8, 8)), uniform(2, (8, 8))
    return dict(dispatch(torch.jit.trace(half_sum, inputs)), mode="TorchScript")


NO_COMPILER = "nothing compiles: this build of TorchScript fuses nothing on a CPU"
WORKS = {
    "matmul-128": lambda: matmul(128),
    "matmul-512": lambda: matmul(512),
    "matmul-1024": lambda: matmul(1024),
    "matmul-2048": lambda: matmul(2048),
    "affine": lambda: long(lambda x: x * 2 + 1),
    "chain": NO_COMPILER,
    "chain:eager": lambda: long(chain),
    "tanh": lambda: long(torch.tanh),
    "exp": lambda: long(torch.exp),
    "sum": total,
    "softmax": lambda: (lambda x: work(lambda: torch.softmax(x, -1)))(uniform(5, (ROWS, ROWS), -4, 4)),
    "layer-norm": layer_norm,
    "conv-first": lambda: conv("conv-first", False),
    "conv-first:backward": lambda: conv("conv-first", True),
    "conv-inner": lambda: conv("conv-inner", False),
    "conv-inner:backward": lambda: conv("conv-inner", True),
    "adam": adam,
    "gradient": gradient,
    "hvp": "double backward is eager: see that row",
    "hvp:eager": hvp,
    "dispatch": lambda: dispatch(torch.add),
    "dispatch:jit": scripted,
    "compile": NO_COMPILER,
}


def mean_seconds(run, seconds):
    # One run is not counted, as in protocol.ts: after a pause caches are cold and threads asleep.
    run()
    runs, start = 0, time.perf_counter()
    while True:
        run()
        runs += 1
        spent = time.perf_counter() - start
        if spent >= seconds and runs >= 2:
            return spent / runs


def main():
    prepared = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if MISSING:
                answer = dict(k="absent", why=MISSING)
            elif request["k"] in ("prepare", "first"):
                make = WORKS.get(request["work"], "")
                if isinstance(make, str):
                    answer = dict(k="absent", why=make)
                else:
                    prepared = make()
                    shown = prepared["show"]()
                    mean_seconds(prepared["run"], 0.4)
                    answer = dict(k="prepared", mode=prepared["mode"], shown=shown)
            elif request["k"] == "measure":
                answer = dict(k="measured", seconds=mean_seconds(prepared["run"], request["seconds"]))
            else:
                prepared = None
                answer = dict(k="released")
        except Exception as error:
            answer = dict(k="absent", why=str(error).splitlines()[0])
        print(json.dumps(answer), flush=True)


main()
