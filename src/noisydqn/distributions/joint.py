"""Returns of joint actions: one choice in each of several dimensions.

The value of a joint action is the mean of its choices' values, one in each dimension (Seyde et al.
2023, "Solving Continuous Control via Q-learning", DecQN). The best choices in all
dimensions then make the best joint action, and a maximum over all joint actions takes no more time
than one over all choices.

So are its quantiles, fraction by fraction, as if the largest returns came together (Sun et al.
2021, "DFAC Framework"). Outputs that are logits of a support have no such mean: averaged
probabilities keep the peaks of every choice where returns should add up, and the best joint action
by averaged logits is not made of the best choices. `check_dimensions` refuses such distributions.

Everything is for one example; the caller vmaps. A joint action that is known becomes the only
action of an `Example`, so distributions and their losses know nothing of dimensions.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from noisydqn.dimensions import Sizes, by_dimension, end_to_end, places
from noisydqn.distributions.base import Distribution, Example
from noisydqn.distributions.bootstrap import Greedy, Soft
from noisydqn.errors import ConfigError
from noisydqn.masks import masked


def check_dimensions(distribution: Distribution, sizes: Sizes) -> None:
    """Refuse a distribution over a support where actions have several dimensions.

    Raises:
        ConfigError: it is one.
    """
    if len(sizes) > 1 and distribution.support is not None:
        raise ConfigError(
            f"a distribution over a support ({type(distribution).__name__}) and actions of "
            f"{len(sizes)} dimensions exclude each other, as its returns do not add up over them: "
            "give --distribution expected, quantile or implicit-quantile"
        )


def values_of(
    distribution: Distribution,
    sizes: Sizes,
    outputs: Float[Array, "choices n"],
    mask: Bool[Array, " choices"] | None = None,
) -> Float[Array, "*d actions"]:
    """Compute the action values [A] or, with several dimensions, [D, n]; -infinity if invalid."""
    return masked(by_dimension(distribution.values(outputs), sizes), mask)


def of_action(
    sizes: Sizes,
    outputs: Float[Array, "choices n"],
    action: Int[Array, "*d"],
) -> tuple[Float[Array, "rows n"], Int[Array, ""]]:
    """Return outputs and the row of them that says what the return of an action is.

    With one dimension these are the outputs themselves; with several, the joint action's alone.
    """
    if len(sizes) == 1:
        return outputs, action
    return jnp.mean(outputs[places(action, sizes)], axis=0, keepdims=True), jnp.int32(0)


def of_example(sizes: Sizes, example: Example) -> Example:
    """Let the joint actions of an example be its only actions; leave one dimension as it is.

    A soft policy is independent in every dimension: softmax of a mean of values is a product. Its
    mean return is that over all choices, each with its probability divided by D.
    """
    if len(sizes) == 1:
        return example
    outputs_tm1, a_tm1 = of_action(sizes, example.outputs_tm1, example.a_tm1)
    outputs_t, choice = example.outputs_t, example.choice
    if isinstance(choice, Greedy):
        outputs_t, row = of_action(sizes, outputs_t, choice.action)
        choice = Greedy(row)
    else:
        policy, bonus = (end_to_end(x, sizes) for x in choice)
        choice = Soft(policy / len(sizes), bonus)
    return example._replace(
        outputs_tm1=outputs_tm1, a_tm1=a_tm1, outputs_t=outputs_t, choice=choice
    )
