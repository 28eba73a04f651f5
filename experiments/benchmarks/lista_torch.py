"""LISTA and its primal-dual training step in plain PyTorch, written for the benchmark from the mathematics."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments.benchmarks.harness import peer


def torch_step(
    data: Mapping[str, np.ndarray],
    params: Mapping[str, np.ndarray],
    num_layers: int,
    constraint: str,
    way: str,
    *,
    rate: float,
    dual_rate: float,
    learning_rate: float,
) -> Callable[[], Any]:
    """A function that makes the next training step and returns the loss and the violations.

    Args:
        data: `matrix` (N, M), `x` (batch, N) and `y` (batch, M).
        params: of the layer that all layers start from, as `LISTAParams` has them.
        num_layers: of the network.
        constraint: "none"; "distance", of the codes to `y`; "gradient", of ||matrix y - x||^2 / 2 at the codes.
        way: "eager"; "eager, fused Adam"; "compiled", by `torch.compile`, with the fused optimizer.
        rate: by which every layer must lower the measure.
        dual_rate: of the multipliers' ascent.
        learning_rate: of Adam.

    Raises:
        MissingPeerError: without torch.
    """
    torch = peer("torch")
    matrix, x, wanted = (torch.from_numpy(data[name]) for name in ("matrix", "x", "y"))
    layers = [
        {name: torch.nn.Parameter(torch.from_numpy(value.copy())) for name, value in params.items()}
        for _ in range(num_layers)
    ]
    weights = [value for layer in layers for value in layer.values()]
    optimizer = torch.optim.Adam(weights, lr=learning_rate, **({} if way == "eager" else {"fused": True}))
    multipliers = torch.zeros(num_layers)

    def forward(x: Any, wanted: Any) -> tuple[Any, Any]:
        code = torch.zeros_like(wanted)
        codes = [code]
        for layer in layers:
            mixed = code @ layer["recurrent"].T + x @ layer["encoder"].T
            code = torch.sign(mixed) * torch.relu(torch.abs(mixed) - torch.exp(layer["log_threshold"]))
            codes.append(code)
        loss = ((code - wanted) ** 2).sum(dim=-1).mean() / 2
        if constraint == "none":
            return loss, None
        trajectory = torch.stack(codes)
        errors = trajectory - wanted if constraint == "distance" else (trajectory @ matrix.T - x) @ matrix
        values = torch.linalg.vector_norm(errors, dim=-1).mean(dim=-1)
        return loss, values[1:] - (1 - rate) * values[:-1]

    if way == "compiled":
        forward = torch.compile(forward)

    def step() -> Any:
        nonlocal multipliers
        optimizer.zero_grad()
        loss, violation = forward(x, wanted)
        if violation is None:
            loss.backward()
        else:
            multipliers = torch.relu(multipliers + dual_rate * violation.detach())
            (loss + multipliers @ violation).backward()
        optimizer.step()
        return loss.detach(), [] if violation is None else [violation.detach()]

    return step
