"""What a training step on many devices holds, exchanges and takes, by simple sums."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("all_reduce", "all_gather", "all_to_all")
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """batch: activations a step over all ranks; width: latents; k: of them fire; size: ranks; split: data or width."""

    batch: int
    width: int
    d: int
    k: int
    size: int
    split: str


def exchanges(s: Shape) -> dict[str, tuple[int, float]]:
    """The messages of a step: {kind: (how many, bytes that a rank receives in them)}, where no latent is dead.

    A ring sends (size - 1) / size of what is gathered, and twice that of what is summed. data: both weights' products (values
    and indices 8 k, activations 4 d a row), then biases, counts of what fired, and the shapes of what is sent. width:
    activations 4 d a row, candidates 4 k and their thresholds 4, the sum of partial reconstructions 4 d, and small sums.
    """
    ring, n, d, k = (s.size - 1) / s.size, s.batch, s.d, s.k
    if s.split == "data":
        small = 8 * 8 + 4 * (s.width + d) + 8 * (s.width + 1) + 8
        return {"all_gather": (4, ring * n * (2 * 8 * k + 2 * 4 * d)), "all_reduce": (4, 2 * ring * small)}
    return {"all_gather": (2, ring * n * (4 * d + 4)), "all_to_all": (1, ring * n * 4 * k),
            "all_reduce": (5, 2 * ring * (4 * n * d + 4 * d + 8 + 16 + 8))}


def memory(s: Shape) -> dict[str, float]:
    """Bytes on one device: both weights in float32 with two moments and a bfloat16 copy of the encoder, and the batch."""
    latents = s.width if s.split == "data" else s.width // s.size
    rows = s.batch if s.split == "width" else s.batch // s.size
    gathered = s.batch * (16 * s.k + 8 * s.d) if s.split == "data" else 0.0
    return {"weights and moments": latents * s.d * (2 * 12 + 2) + latents * (12 + 8),
            "activations of the batch": 4.0 * rows * s.d * 4,      # x, its centred copy, reconstruction or residual, gradient
            "gathered products": gathered,
            "block of pre-activations": min(2.0 * rows * latents, 2.0**29)}


@dataclass(frozen=True)
class Machine:
    """What a device is taken to reach a second: bfloat16 operations, bytes of memory, bytes from others; seconds a message."""

    name: str
    operations: float
    memory: float
    network: float
    latency: float


def seconds(s: Shape, m: Machine) -> dict[str, float]:
    """Seconds of a step on one device: compute, memory and network, one after the other."""
    rows, latents = (s.batch // s.size, s.width) if s.split == "data" else (s.batch, s.width // s.size)
    entries = s.batch * s.k if s.split == "data" else s.batch * s.k / s.size
    product = 2.0 * rows * latents * s.d / m.operations
    written = 2 * 2.0 * rows * latents                                     # pre-activations in bfloat16, written and read
    own = rows * s.k if s.split == "data" else entries
    sparse = 4.0 * s.d * (4 * own + 2 * entries)                           # rescore, decode, their gradients; two weights' rows
    adam = latents * s.d * (2 * 24 + 2)                                    # weight and moments read and written, and the copy
    sent = exchanges(s)
    network = sum(size for _, size in sent.values()) / m.network + m.latency * sum(times for times, _ in sent.values())
    return {"product": product, "selection": written / m.memory, "sparse": sparse / m.memory, "optimizer": adam / m.memory,
            "network": network}


# Half to three quarters of what NVIDIA's data sheets of the H100 SXM give: 989 TFLOP/s in bfloat16, 3.35 TB/s, 450 GB/s of
# NVLink in each direction inside a machine of 8, and 50 GB/s of InfiniBand for each GPU between machines.
INSIDE = Machine("H100, 8 in one machine", 500e12, 2.3e12, 300e9, 20e-6)
BETWEEN = Machine("H100, machines of 8 with InfiniBand", 500e12, 2.3e12, 35e9, 60e-6)
PLANS = [(Shape(16_384, 2**20, 4096, 64, 8, split), INSIDE) for split in ("width", "data")] + [
    (Shape(batch, 2**24, 4096, 64, 64, "width"), BETWEEN) for batch in (16_384, 65_536)]


def plans() -> str:
    """The plans as a table."""
    lines = ["| latents | GPUs | split | batch | GiB a device | MB received a step | product | selection | sparse | "
             "optimizer | network | ms a step | million tokens a minute |", "|" + "---|" * 13]
    for s, m in PLANS:
        held, sent, time = sum(memory(s).values()), sum(size for _, size in exchanges(s).values()), seconds(s, m)
        total = sum(time.values())
        lines.append(f"| {s.width:,} | {s.size} | {s.split} | {s.batch:,} | {held / GIB:.1f} | {sent / 1e6:,.0f} | "
                     + " | ".join(f"{1e3 * value:.1f}" for value in time.values())
                     + f" | {1e3 * total:.0f} | {60 * s.batch / total / 1e6:.1f} |")
    return "\n".join(lines)
