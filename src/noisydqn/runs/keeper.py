"""The folder of a run while it is trained, which is made anew if it is removed."""

import dataclasses
from collections.abc import Callable

from noisydqn.config.config import Config
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.runs.claim import Claim
from noisydqn.runs.folder import RunFolder, write_config, write_spaces


@dataclasses.dataclass(frozen=True)
class Keeper:
    """What a run needs to make its folder anew.

    A folder that was only renamed is not removed: the run goes on in it.
    """

    claim: Claim
    seeds: list[tuple[RunFolder, Config]]
    spec: EnvironmentSpec
    warn: Callable[[str], None]

    def restore(self) -> bool:
        """Make the folders of the run that were removed, with a lock, configs and spaces.

        Returns:
            Whether any was: the checkpoints in it are gone, too.

        Raises:
            UserError: another process has taken the folder.
            OSError: it cannot be made.
        """
        whole = self.claim.whole
        folders = [whole, *(folder for folder, _ in self.seeds if folder is not whole)]
        configured = [folder for folder, _ in self.seeds]
        removed = [
            folder
            for folder in folders
            # What else writes may have made the folder anew before, without its config.
            if not folder.files.exists() or (folder in configured and not folder.config.exists())
        ]
        paths = [folder.path for folder in removed]
        for folder in removed:
            folder.files.make()
            self.claim.lock_again(folder)
        for folder, config in self.seeds:
            if folder in removed:
                write_config(folder, config)
                write_spaces(folder, self.spec)
        if removed:
            elsewhere = "" if removed[0].path == paths[0] else f" as {removed[0].path}"
            self.warn(
                f"{paths[0]} was removed while it was trained: it is made anew{elsewhere}, with a "
                "checkpoint of all that was trained"
            )
        return bool(removed)
