import pickle

import pytest

from promptreg import errors

EXAMPLES = [
    errors.AmbiguousReferenceError("sst2@prod", ("sst2@1", "sst2@2"), "name the base with --base"),
    errors.AmbiguousWeightsError("./base", "experts are merged"),
    errors.AttachError("found", "mend"),
    errors.BaseModelNotFoundError("gemma", ("llama",)),
    errors.CanaryError("sst2@3", "the outputs differ", "load the right base model"),
    errors.ClosedError("sqlite:///x"),
    errors.ConfigurationError("PROMPTREG_OBJECTS_URL", "ftp://x", "no such scheme", "use s3://"),
    errors.ConflictError("the name is taken", "it was to be free", "choose another"),
    errors.ConversionError("npy", "it has two tensors", "write it as peft"),
    errors.InvalidDataError("train.jsonl", 3, "it is empty", "fill it in"),
    errors.NonFiniteError([3], ["sst2@3"]),
    errors.CorruptObjectError("sha256:a", "sha256:b", "s3://bucket"),
    errors.DatabaseUnavailableError("sqlite:///x", "it is a directory"),
    errors.DestinationError("./out", "it is not empty", "name another destination"),
    errors.IncompatibleModelError("a", "b", "same-shape", ("layers.0",), 3),
    errors.InvalidArtifactError("prompt.npy", "NaN at 3", "train it again"),
    errors.InvalidFilterError("hp.lr >", "a value is missing", 7),
    errors.InvalidNameError("task name", "SST 2", "small letters"),
    errors.InvalidValueError("the metric 'accuracy'", "nan", "it is no number", "leave it out"),
    errors.LossyBaseModelError("quantised to 4 bits"),
    errors.MissingDependencyError("torch", "torch", "attach"),
    errors.ObjectNotFoundError("sha256:a", "./objects"),
    errors.ObjectTooLargeError("sha256:a", "./objects", 64 * 2**20),
    errors.PickleRefusedError("adapter_model.bin", "a pickle"),
    errors.PromptNotFoundError("sst2@9", "there is no version 9", ("sst2@1",)),
    errors.SchemaError("sqlite:///x", None, "0001", newer=False),
    errors.StoreFullError("./objects", "No space left on device"),
    errors.StoreUnavailableError("s3://bucket", "connection refused"),
    errors.TaskNotFoundError("sst", ("sst2",)),
    errors.TuningError("it diverged", "lower the learning rate"),
    errors.UnknownFormatError("notes.txt", "text"),
    errors.UnreadableBaseModelError("./base", "no config.json", "name another directory"),
]
ABSTRACT = {
    "ArtifactError",
    "BaseModelError",
    "DatabaseError",
    "NotFoundError",
    "PromptregError",
    "StoreError",
}


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling(error: errors.PromptregError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_says_what_was_found_and_what_mends_it(error: errors.PromptregError) -> None:
    found, semicolon, remedy = str(error).rpartition(";")
    has_remedy = bool(semicolon and found.strip() and remedy.strip())
    assert has_remedy, str(error)


def test_every_error_is_tried_here() -> None:
    assert {type(error).__name__ for error in EXAMPLES} == set(errors.__all__) - ABSTRACT


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    drawn = {
        line.split()[1]
        for line in (errors.__doc__ or "").splitlines()
        if "Error" in line and line.lstrip()[0] in "*-"
    }
    assert drawn == set(errors.__all__)


def test_a_missing_schema_names_the_command_that_mends_it() -> None:
    error = errors.SchemaError("sqlite:///x", None, "0001", newer=False)
    assert str(error).endswith("run 'promptreg upgrade'")


def test_a_newer_schema_says_to_upgrade_promptreg() -> None:
    error = errors.SchemaError("sqlite:///x", "0009", "0001", newer=True)
    assert str(error).endswith("upgrade promptreg itself")
