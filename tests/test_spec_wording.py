"""What a researcher reads after a slip of the keyboard: whole messages, as `read_spec` gives them."""

import pytest

from saccade.errors import SpecError
from saccade.spec_reader import parse_spec
from saccade.spec_wording import is_section, settings


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, "e.yaml", overrides)
    message = str(caught.value)
    assert message.isprintable()
    return message


def refused_setting(section: str, line: str) -> str:
    """The message about one line of a section, without its place."""
    prefix = f"e.yaml:3: {section}.{line.partition(':')[0]}: "
    message = refusal(f"name: x\n{section}:\n  {line}\n")
    assert message.startswith(prefix)
    return message.removeprefix(prefix)


@pytest.mark.parametrize(
    ("section", "line", "message"),
    [
        ("pretrain", "learning_rate: fast", "must be a number, greater than 0; got 'fast'"),
        ("pretrain", "learning_rate: 0", "must be a number, greater than 0; got 0"),
        ("pretrain", "learning_rate: .inf", "must be a number, greater than 0; got .inf; it must be finite"),
        ("pretrain", "learning_rate: 1e999", "must be a number, greater than 0; got 1e999; it must be finite"),
        (
            "pretrain",
            "learning_rate: '0.05'",
            "must be a number, greater than 0; got '0.05'; write 0.05, without quotes",
        ),
        (
            "pretrain",
            "learning_rate: 0,05",
            "must be a number, greater than 0; got '0,05'; write '.' for the decimal point, and no ',' in numbers",
        ),
        ("pretrain", "learning_rate:", "has no value; it must be a number, greater than 0"),
        ("pretrain", "learning_rate: null", "must be a number, greater than 0; got null"),
        ("pretrain", "learning_rate: true", "must be a number, greater than 0; got true"),
        ("pretrain", "learning_rate: {}", "must be a number, greater than 0; got an empty mapping"),
        ("pretrain", "momentum: 1", "must be a number, 0 or more, less than 1; got 1"),
        ("pretrain", "epochs: 1e2", "must be a whole number, 0 or more; got 1e2; write 100"),
        ("pretrain", "epochs: 1.5", "must be a whole number, 0 or more; got 1.5"),
        ("pretrain", "epochs: .nan", "must be a whole number, 0 or more; got .nan; it must be finite"),
        ("pretrain", "epochs: 1_000", "must be a whole number, 0 or more; got '1_000'; write 1000"),
        ("pretrain", "epochs: 10 000", "must be a whole number, 0 or more; got '10 000'; write 10000"),
        ("pretrain", "epochs: 1 2", "must be a whole number, 0 or more; got '1 2'"),
        ("pretrain", "epochs: 0x10", "must be a whole number, 0 or more; got '0x10'; write it in decimal: 16"),
        (
            "pretrain",
            "epochs: 1:30",
            "must be a whole number, 0 or more; got '1:30'; write one plain number, without ':'",
        ),
        (
            "augmentation",
            "hue: 20%",
            "must be a number from 0 to 0.5; got '20%'; write it as a fraction of 1, without %",
        ),
        (
            "augmentation",
            "crop_aspect_max: 4/3",
            "must be a number, 1 or more; got '4/3'; formulas are not worked out; write the number",
        ),
        ("augmentation", "crop_area_min: 0", "must be a number, greater than 0, 1 or less; got 0"),
        ("saccade", "deduplicate: yes", "must be true or false; got 'yes'; write true, without quotes"),
        ("saccade", "deduplicate: 0", "must be true or false; got 0; write false, without quotes"),
        ("saccade", "deduplicate: 'false'", "must be true or false; got 'false'; write false, without quotes"),
        ("saccade", "focus_level: 6", "must be a whole number from -1 to 5; got 6"),
        (
            "encoder",
            "name: R3D",
            "must be r3d or r2plus1d or r3d_18 or mc3_18 or r2plus1d_18 or s3d; got 'R3D'; did you mean r3d?",
        ),
        (
            "encoder",
            "name: R(2+1)D",
            "must be r3d or r2plus1d or r3d_18 or mc3_18 or r2plus1d_18 or s3d; got 'R(2+1)D'; did you mean r2plus1d?",
        ),
        ("encoder", "name: 3", "must be r3d or r2plus1d or r3d_18 or mc3_18 or r2plus1d_18 or s3d; got 3"),
        ("encoder", "name: [r3d]", "must be r3d or r2plus1d or r3d_18 or mc3_18 or r2plus1d_18 or s3d; got a list"),
        (
            "checkpoint",
            "every_steps: none",
            "must be a whole number, 1 or more, or null; got 'none'; did you mean null?",
        ),
        (
            "prototypes",
            "num_clusters: 1500 1500",
            "must be a list of whole numbers, each 1 or more, such as [1500, 1500, 1500]; got '1500 1500'; "
            "write [1500, 1500]",
        ),
        (
            "prototypes",
            "num_clusters: 9",
            "must be a list of whole numbers, each 1 or more, such as [1500, 1500, 1500]; got 9; write [9]",
        ),
        ("prototypes", "num_clusters: [5, 0]", "entry 2 must be a whole number, 1 or more; got 0"),
        ("prototypes", "num_clusters: [5, [1]]", "entry 2 must be a whole number, 1 or more; got a list"),
        ("data", "exclude: v_a.avi", "must be a list of texts, such as [a, b]; got 'v_a.avi'; write [v_a.avi]"),
        ("data", "exclude: [a, 1]", 'entry 2 must be a text; got 1; for a text put it in quotes: "1"'),
        (
            "tracking",
            "experiment: 1e3",
            'must be a text of 1 to 200 characters; got 1e3; for a text put it in quotes: "1e3"',
        ),
        ("tracking", "experiment: ''", "must be a text of 1 to 200 characters; got ''"),
        ("tracking", "uri:", 'has no value; it must be a text, written "" when empty'),
        (
            "tracking",
            f"experiment: {'x' * 201}",
            f"must be a text of 1 to 200 characters; got '{'x' * 48}...{'x' * 9}' of 201 characters",
        ),
    ],
)
def test_wrong_values(section: str, line: str, message: str) -> None:
    assert refused_setting(section, line) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pretrain:", "pretrain: has no settings; indent them below it, such as 'epochs: ...', or remove it"),
        (
            "pretrain: [1]",
            "pretrain: must be a section with settings indented below it, such as 'epochs: ...'; got a list",
        ),
        (
            "pretrain: fast",
            "pretrain: must be a section with settings indented below it, such as 'epochs: ...'; got 'fast'",
        ),
        (
            "evaluation: {retrieval: }",
            "evaluation.retrieval: has no settings; indent them below it, such as 'enabled: ...', or remove it",
        ),
    ],
)
def test_something_else_in_place_of_a_section(text: str, message: str) -> None:
    assert refusal(f"name: x\n{text}\n") == f"e.yaml:2: {message}"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "learning_rate",
            "unknown key, did you mean pretrain.learning_rate or evaluation.linear_probe.learning_rate or "
            "evaluation.finetune.learning_rate?",
        ),
        ("pretrain.epochs", "unknown key; write epochs on a line of its own, indented below 'pretrain:'"),
        ("Seed", "unknown key, did you mean seed?"),
        ("seeds", "unknown key, did you mean seed?"),
        ("pre-train", "unknown key, did you mean pretrain?"),
        (
            "batch_size",  # three at the most
            "unknown key, did you mean pretrain.batch_size or evaluation.retrieval.batch_size or "
            "evaluation.linear_probe.batch_size?",
        ),
        ("retrieval", "unknown key, did you mean evaluation.retrieval?"),
        ("nce_k", "unknown key, did you mean contrast.num_negatives?"),  # the release's flag
        ("fs_warmup_epoch", "unknown key, did you mean prototypes.warmup_epoch?"),
        ("lr", "unknown key, did you mean pretrain.learning_rate?"),
        ("learning_rates", "unknown key, did you mean pretrain.learning_rate?"),
        (
            "bogus",
            "unknown key; allowed: name, seed, data, clip, saccade, encoder, augmentation, contrast, consistency, "
            "prototypes, pretrain, evaluation, checkpoint, engine, tracking, then, base",
        ),
    ],
)
def test_unknown_keys_at_the_top(key: str, message: str) -> None:
    assert refusal(f"name: x\n{key}: 1\n") == f"e.yaml:2: {key}: {message}"


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ("pretrain", "learning_rat", "unknown key, did you mean learning_rate?"),
        ("pretrain", "weight-decay", "unknown key, did you mean weight_decay?"),
        ("pretrain", "batchSize", "unknown key, did you mean batch_size?"),
        ("contrast", "warmup_epoch", "unknown key, did you mean prototypes.warmup_epoch?"),
        ("clip", "bogus", "unknown key; allowed: frames, size, eval_crop"),
        ("evaluation", "topk", "unknown key, did you mean evaluation.retrieval.topk?"),
    ],
)
def test_unknown_keys_in_a_section(section: str, key: str, message: str) -> None:
    assert refused_setting(section, f"{key}: 1") == message


def test_a_key_of_any_length_makes_a_short_message() -> None:
    message = refusal(f"name: x\n{'k' * 1000}: 1\n")
    assert message.startswith("e.yaml:2: kkk")
    assert len(message) < 400


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.learning_rat=0.05", "unknown key, did you mean pretrain.learning_rate?"),
        ("projection_dim=64", "unknown key, did you mean contrast.projection_dim?"),
        ("PRETRAIN.EPOCHS=3", "unknown key, did you mean pretrain.epochs?"),
        ("--pretrain.epochs=3", "unknown key, did you mean pretrain.epochs?"),
        ("pretrain/epochs=3", "unknown key, did you mean pretrain.epochs?"),
        ("pretrain..epochs=3", "unknown key, did you mean pretrain.epochs?"),
        ("pretrian.epochs=3", "unknown key, did you mean pretrain.epochs?"),
        ("retrieval.topk=[1]", "unknown key, did you mean evaluation.retrieval.topk?"),
        ("data.exclude[0]=x", "unknown key, did you mean data.exclude?"),
        (
            "saccade.nothing.deep=1",
            "unknown key; allowed: source, focus_num, grid_num, deduplicate, margin_h, focus_level",
        ),
        ("seed.x=1", "seed is a single setting with nothing below it; write seed=value"),
        ("pretrain={epochs: 3}", "pretrain is a section; set its keys one by one, such as pretrain.epochs=value"),
        ("pretrain.learning_rate", "not of the form path=value, such as pretrain.learning_rate=0.05"),
        ("=3", "not of the form path=value, such as pretrain.learning_rate=0.05"),
        (".=3", "not of the form path=value, such as pretrain.learning_rate=0.05"),
        ("", "not of the form path=value, such as pretrain.learning_rate=0.05"),
        ("pretrain.epochs=ten", "must be a whole number, 0 or more; got 'ten'"),
        ("pretrain.epochs==3", "must be a whole number, 0 or more; got '=3'"),
        ("prototypes.num_clusters=[5, 0]", "entry 2 must be a whole number, 1 or more; got 0"),
        ("seed=012", '012 is octal to some readers and decimal to others; write 12, or "012" for a text'),
        ("seed=!!python/name:os.system", "tags (!!python/name:os.system) are refused; write the plain value"),
        ("name=#1", "what follows a # is a comment; put the value in quotes"),
        (
            "name=run: a",
            "must be a text of 1 to 200 characters; got a mapping (key: value); put a text that holds ': ' in quotes",
        ),
        (
            "name=${USER}",
            "'${USER}': ${NAME} works only in data.root, encoder.weights and tracking.uri; write the value out",
        ),
        (
            "prototypes.warmup_epoch=300",
            "300 puts the first clustering after epoch 300, but pretrain.epochs = 300, so no prototype would be used; "
            "lower it, or set prototypes.num_clusters to []",
        ),
    ],
)
def test_overrides(override: str, message: str) -> None:
    assert refusal("name: x\n", override) == f"--set {override}: {message}"


def test_settings_are_all_paths() -> None:
    assert settings()["pretrain.learning_rate"]["exclusiveMinimum"] == 0
    assert settings()["evaluation.retrieval.topk"]["items"] == {"type": "integer", "minimum": 1}
    assert is_section("")
    assert is_section("evaluation.retrieval")
    assert not is_section("seed")
