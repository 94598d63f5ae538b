"""Looking into sum trees."""

import numpy as np

from noisydqn.replay import sum_tree
from noisydqn.replay.sum_tree import FANOUT, SumTree


def priorities(tree: SumTree) -> np.ndarray:
    """All priorities of a tree."""
    above = sum(FANOUT**level for level in range(sum_tree.levels(tree) - 1))
    return np.asarray(tree)[above:].ravel()
