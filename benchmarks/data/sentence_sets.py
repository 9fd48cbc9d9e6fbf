"""Where sentences come from: a rule, or the files of GLUE."""

from pathlib import Path

from marginbench.benchmarks.data.arrays import Arrays
from marginbench.benchmarks.data.checkpoint import find_checkpoint
from marginbench.benchmarks.data.glue import NOT_APPLICABLE, TASKS, read_task
from marginbench.benchmarks.data.sentences import sentences
from marginbench.benchmarks.data.tokens import tokenised
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import Problems

BY_RULE = "sentences"
MAX_LENGTH = 128  # tokens; of the longest sentences and pairs of GLUE the end is cut (Devlin et al., section A.3)


def is_text(name: str) -> bool:
    """Whether a set of this name has sentences, and not images."""
    return name == BY_RULE or name in TASKS or name in NOT_APPLICABLE


def find_sentences(
    name: str,
    folder: Path,
    data_dir: Path,
    max_length: int | None = None,
    checkpoint: str | None = None,
    size: int | None = None,
) -> Arrays:
    """Find a set of sentences by name.

    - `sentences`: by a rule, in words of its own.
    - A task of GLUE, see `glue.TASKS`: its TSV files, in the folders of GLUE below `data_dir`, as token ids of the
      checkpoint's tokenizer.

    Args:
        folder: where the suite file is; a checkpoint is looked for there, too.

    Raises:
        MarginbenchError: no task of classification, or missing or malformed files: of the task and of the checkpoint,
            both in one message.
    """
    if name in NOT_APPLICABLE:
        raise MarginbenchError(f"data {name!r}: not applicable: {NOT_APPLICABLE[name]}")
    if size is not None:
        raise MarginbenchError(f"data.size={size}: for image folders only; {name!r} are sentences")
    if name == BY_RULE:
        for key, value in (("data.max_length", max_length), ("network.checkpoint", checkpoint)):
            if value is not None:
                raise MarginbenchError(f"{key}={value!r}: the set {name!r} has words and lengths of its own")
        return sentences()
    if checkpoint is None:
        raise MarginbenchError(f"data {name!r}: needs the tokenizer of a checkpoint: network.name=bert has one")
    problems = Problems("not all files can be read")
    with problems.collected():
        task = read_task(name, data_dir)
    with problems.collected():
        found = find_checkpoint(checkpoint, [folder, data_dir])
    problems.report()
    return tokenised(task, found, MAX_LENGTH if max_length is None else max_length, data_dir)
