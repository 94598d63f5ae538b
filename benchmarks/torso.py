"""Two ways to write a torso for the CPU: gradients of both, in a compiled loop.

    python -m benchmarks.torso

"ours" is the library's form on a CPU; "XLA" is `lax.conv_general_dilated`, and for the
notebook's torso a maximum after it. Batch 32 for the tuned torso, 256 for the notebook's.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import results
from noisydqn.nets.build import CONV_LAYERS
from noisydqn.nets.convolutions import max_pool
from noisydqn.nets.torsos import ConvTorso, NotebookTorso, Torso, features

NAME = "torso"
LOOP, ROUNDS = 10, 5
SHAPE = (42, 42)


def xla_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Apply XLA's built-in convolution to a batch."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "VALID", dimension_numbers=layout
    )


def xla_tuned(torso: ConvTorso, x: jax.Array) -> jax.Array:
    """Apply the tuned torso with XLA's convolutions."""
    x = x[..., None]
    for conv in torso.convs:
        x = jax.nn.relu(xla_conv(x, conv.kernel, conv.stride) + conv.bias)
    return x


def xla_notebook(torso: NotebookTorso, x: jax.Array) -> jax.Array:
    """Apply the notebook's torso with XLA's convolutions."""
    x = x[..., None]
    for conv in (torso.first, torso.second):
        x = xla_conv(x, conv.kernel, 1) + conv.bias
        x = jax.nn.relu(jax.vmap(lambda image: max_pool(image, torso.POOL))(x))
    return x


def gradient_ms(f: Callable[[Any, jax.Array], jax.Array], torso: Torso, batch: int) -> float:
    """Measure the milliseconds of one gradient with respect to the torso, median of rounds."""
    images = jax.random.normal(jax.random.key(0), (batch + LOOP, *SHAPE))

    def step(torso: Torso, i: jax.Array) -> tuple[Torso, None]:
        x = jax.lax.dynamic_slice_in_dim(images, i, batch)
        gradient = jax.grad(lambda torso: jnp.sum(f(torso, x)))(torso)
        return jax.tree.map(lambda a, g: a - 1e-9 * g, torso, gradient), None

    run = jax.jit(lambda torso: jax.lax.scan(step, torso, jnp.arange(LOOP))[0])
    jax.block_until_ready(run(torso))
    times: list[float] = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        jax.block_until_ready(run(torso))
        times.append((time.perf_counter() - start) / LOOP * 1e3)
    return statistics.median(times)


def table(rows: list[dict[str, Any]]) -> str:
    """Format the results as a table in Markdown."""
    lines = [
        (row["torso"], row["batch"], f"{row['ours_ms']:.1f}", f"{row['xla_ms']:.1f}")
        for row in rows
    ]
    return results.markdown(("torso", "batch", "ours, ms a gradient", "XLA, ms a gradient"), lines)


def main() -> None:
    """Measure, save, and print the table."""
    key = jax.random.key(1)
    tuned = ConvTorso(SHAPE, CONV_LAYERS["catcher"], key=key)
    notebook = NotebookTorso(SHAPE, key=key)
    rows: list[dict[str, Any]] = [
        {
            "torso": "tuned",
            "batch": 32,
            "ours_ms": gradient_ms(features, tuned, 32),
            "xla_ms": gradient_ms(xla_tuned, tuned, 32),
        },
        {
            "torso": "notebook",
            "batch": 256,
            "ours_ms": gradient_ms(features, notebook, 256),
            "xla_ms": gradient_ms(xla_notebook, notebook, 256),
        },
    ]
    results.save(NAME, "python -m benchmarks.torso", rows)
    print(table(rows))


if __name__ == "__main__":
    main()
