"""`python -m noisydqn`."""

from noisydqn.cli import run

if __name__ == "__main__":
    run()
