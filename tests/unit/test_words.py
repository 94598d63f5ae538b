"""What the words of a command line tell before they are parsed."""

import shlex

import pytest

from noisydqn.cli.words import names_code


@pytest.mark.parametrize(
    "line",
    [
        "train python:my.make_env",
        "train my_module:MyEnv-v0 --quiet",
        "train CartPole-v1 --exploration=python:my.Explorer",
        "train CartPole-v1 --torso python:my.make",
        "train --quiet python:my.make_env",
        "compare --env CartPole-v1 python:my.make_env",
        "compare --vary exploration=noisy,python:my.Explorer --env CartPole-v1",
        "evaluate runs/one --trust",
    ],
)
def test_code_of_the_users(line: str) -> None:
    assert names_code(shlex.split(line))


@pytest.mark.parametrize(
    "line",
    [
        "train CartPole-v1",
        "train gymnax:Catch-bsuite",
        """train CartPole-v1 --env-kwargs '{"size": 20}'""",
        "tune CartPole-v1 --search learning_rate=log-uniform:1e-4,1e-2 n_step=integer:1,5",
        "tune CartPole-v1 --search=sigma_init=uniform:0.1,1",
        "compare study.toml --ray head:6379",
        """compare --vary 'env_kwargs={"size": 20}' --env DeepSea""",
    ],
)
def test_colons_that_name_no_code(line: str) -> None:
    """They do not put the current folder on the path of imports."""
    assert not names_code(shlex.split(line))
