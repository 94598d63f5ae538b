"""Which noise samples an update learns under."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class NoiseRule:
    """The noise samples of an update.

    Args:
        samples: number of samples whose losses are averaged, K.
        matched: value the next state under the same sample as the prediction at the state.
        mean: learn with mean weights; noise serves acting alone.
    """

    samples: int = 1
    matched: bool = False
    mean: bool = False

    @property
    def several(self) -> bool:
        """Whether the parallel learner's samples have an axis [K]."""
        return self.matched or self.samples > 1


PUBLISHED = NoiseRule()
"""As in Fortunato et al. 2018: one sample for each network, independent of the others."""
