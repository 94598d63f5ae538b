"""What a network learns about returns: distributions, bootstrap targets and losses.

To add a distribution, write it in a file of its own and name it in `DISTRIBUTIONS`.
"""

from noisydqn.distributions.base import Distribution
from noisydqn.distributions.categorical import Categorical
from noisydqn.distributions.expected import Expected
from noisydqn.distributions.implicit_quantile import ImplicitQuantile
from noisydqn.distributions.quantile import Quantile

DISTRIBUTIONS: dict[str, type[Distribution]] = {
    "expected": Expected,
    "categorical": Categorical,
    "quantile": Quantile,
    "implicit-quantile": ImplicitQuantile,
}
"""Every distribution by the name that `--distribution` takes."""
