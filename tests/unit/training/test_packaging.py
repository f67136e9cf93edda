"""Each kind of model becomes a package that repeats it, learns from its own part only, and can be made again."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlops.package import Metric, export_sklearn, read_baseline, read_package, run_model
from mlops.training import (
    FEATURES,
    KINDS,
    Kind,
    TrainedModel,
    always_long,
    comment,
    load_bars,
    publish,
    train,
    train_and_package,
    train_on,
)
from mlops.training.fitting import probabilities
from mlops.training.packaging import GOLDEN_TOLERANCE, golden_places, input_rules
from tickserve.errors import DataError


@pytest.fixture(scope="module")
def models() -> dict[Kind, TrainedModel]:
    return {kind: train("nasdaq", kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_repeats_its_estimator_on_every_row(
    models: dict[Kind, TrainedModel], kind: Kind, tmp_path: Path
) -> None:
    model = models[kind]
    version, path = publish(model, tmp_path)
    assert (version, path) == (1, tmp_path / f"nasdaq-{kind}" / "1")
    package = read_package(path)
    for rows in model.split.parts().values():
        served = run_model(package.model, {"features": rows.features})["probabilities"]
        np.testing.assert_allclose(served, probabilities(model.estimator, rows.features), rtol=0, atol=GOLDEN_TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_training_again_gives_the_same_digest_and_so_the_same_version(
    models: dict[Kind, TrainedModel], kind: Kind, tmp_path: Path
) -> None:
    first = publish(models[kind], tmp_path)
    assert publish(train("nasdaq", kind), tmp_path) == first
    assert [entry.name for entry in tmp_path.iterdir()] == [f"nasdaq-{kind}"]


def test_another_seed_gives_another_version(models: dict[Kind, TrainedModel], tmp_path: Path) -> None:
    publish(models["boosting"], tmp_path)
    assert train_and_package("nasdaq", "boosting", tmp_path, seed=1) == tmp_path / "nasdaq-boosting" / "2"


def test_the_manifest_says_what_the_model_is_and_how_it_did(models: dict[Kind, TrainedModel], tmp_path: Path) -> None:
    model = models["logistic"]
    manifest = read_package(publish(model, tmp_path)[1]).manifest
    assert manifest.feature_names == FEATURES
    assert manifest.task == "classification"
    assert manifest.metrics == model.metrics
    assert set(manifest.datasets) == set(manifest.metrics) == {"train", "validation", "test"}
    assert manifest.datasets["train"].last == "2011-05-18T20:00Z"
    assert manifest.datasets["validation"].first == "2011-05-23T20:00Z"
    assert len({dataset.fingerprint for dataset in manifest.datasets.values()}) == 3
    assert manifest.signal is not None
    assert (manifest.signal.column, manifest.signal.scale, manifest.signal.offset) == (1, 2, -1)
    assert manifest.confidence is not None
    assert manifest.confidence.column is None
    assert manifest.outcomes is not None
    assert (manifest.outcomes.kind, manifest.outcomes.periods_per_year) == ("time_series", 252)
    assert not manifest.input_rules.event_time.required


def test_the_baseline_of_outputs_is_out_of_sample(models: dict[Kind, TrainedModel], tmp_path: Path) -> None:
    model = models["forest"]
    baseline = read_baseline((publish(model, tmp_path)[1] / "baseline.json").read_bytes())
    assert baseline.outputs is not None
    assert (baseline.inputs.dataset, baseline.outputs.dataset) == ("train", "validation")
    assert [column.name for column in baseline.inputs.columns] == list(FEATURES)
    assert baseline.inputs.columns[0].total().sum() == len(model.split.train)
    assert baseline.outputs.columns[0].total().sum() == len(model.split.validation)
    assert int(baseline.inputs.blocks[-1].last_unix_ns or 0) < int(baseline.outputs.blocks[0].first_unix_ns or 0)


@pytest.mark.parametrize("kind", KINDS)
def test_prices_after_the_training_part_do_not_move_the_model(models: dict[Kind, TrainedModel], kind: Kind) -> None:
    """Were the purge gap one session shorter, the last training label would read a changed open."""
    bars = load_bars("nasdaq")
    later = bars.sessions >= models[kind].split.validation.sessions[0]
    factor = np.where(later, np.random.default_rng(1).uniform(0.9, 1.1, len(bars)), 1.0)
    changed = replace(
        bars, open=bars.open * factor, high=bars.high * factor, low=bars.low * factor, close=bars.close * factor
    )
    again = train_on(changed, kind)
    sample = models[kind].split.test.features
    assert export_sklearn(again.estimator, FEATURES, sample) == export_sklearn(models[kind].estimator, FEATURES, sample)


def test_golden_rows_span_the_test_part_and_hold_its_extremes(models: dict[Kind, TrainedModel]) -> None:
    features = models["mlp"].split.test.features
    places = golden_places(features)
    assert (places[0], places[-1]) == (0, len(features) - 1)
    assert np.diff(places).max() <= len(features) / 31 + 1
    assert (features[places].min(axis=0) == features.min(axis=0)).all()
    assert (features[places].max(axis=0) == features.max(axis=0)).all()


def test_input_rules_let_all_real_rows_pass(models: dict[Kind, TrainedModel]) -> None:
    split = models["logistic"].split
    bounds = input_rules(split.train.features).bounds
    assert set(bounds) == set(FEATURES)
    assert (bounds["rsi_14d"].minimum, bounds["rsi_14d"].maximum, bounds["rsi_14d"].policy) == (0, 100, "reject")
    for rows in split.parts().values():
        for name, values in zip(FEATURES, rows.features.T, strict=True):
            bound = bounds[name]
            assert bound.minimum is not None
            assert bound.maximum is not None
            assert bound.minimum <= values.min()
            assert values.max() <= bound.maximum


def test_models_are_compared_with_always_going_long(models: dict[Kind, TrainedModel]) -> None:
    split = models["logistic"].split
    figures = always_long(split)["test"]
    assert figures["accuracy"].value == pytest.approx(split.test.labels.mean())
    assert "auc" not in figures


def with_auc(model: TrainedModel, **figures: Metric) -> TrainedModel:
    """The model with these figures as its AUC, by part."""
    changed = {part: model.metrics[part] | {"auc": figure} for part, figure in figures.items()}
    return replace(model, metrics=model.metrics | changed)


NEAR = Metric(value=0.51, standard_error=0.02, n=1000)
EXPECTED = "what to expect"


def test_the_comment_calls_a_chance_auc_expected_only_where_both_parts_have_one(
    models: dict[Kind, TrainedModel],
) -> None:
    told = comment([with_auc(models["logistic"], validation=NEAR, test=NEAR)])
    assert "validation days, 1 of 1 models have an AUC within two standard errors of 0.5" in told
    assert "test days, 1 of 1 models have" in told
    assert EXPECTED in told
    assert "suspect" not in told


@pytest.mark.parametrize(
    ("figure", "said", "suspect"),
    [
        (
            Metric(value=0.6, standard_error=0.02, n=1000),
            "0.600±0.020 on {}, 5.0 standard errors above 0.5",
            "look ahead",
        ),
        (Metric(value=0.4, standard_error=0.02, n=1000), "0.400±0.020 on {}, 5.0 standard errors below 0.5", "labels"),
        (Metric(value=1.0, n=1000), "1.000 on {}, above 0.5 and without a standard error", "look ahead"),
    ],
)
@pytest.mark.parametrize("part", ["validation", "test"])
def test_the_comment_suspects_an_auc_far_from_one_half_on_either_part(
    models: dict[Kind, TrainedModel], part: str, figure: Metric, said: str, suspect: str
) -> None:
    told = comment([with_auc(models["logistic"], **{"validation": NEAR, "test": NEAR, part: figure}), models["mlp"]])
    assert f"{part} days, 1 of 2 models have" in told
    assert f"logistic has {said.format(part)}" in told
    assert f"suspect a {suspect}" in told or f"or {suspect} the wrong way round" in told
    assert "4 were looked at" in told
    assert EXPECTED not in told


def test_the_comment_compares_accuracy_with_how_often_prices_rose(models: dict[Kind, TrainedModel]) -> None:
    model = models["logistic"]
    share = model.split.test.labels.mean()

    def told(accuracy: float) -> str:
        figures = model.metrics["test"] | {"accuracy": Metric(value=accuracy, standard_error=0.01, n=1000)}
        return comment([replace(model, metrics=model.metrics | {"test": figures})])

    assert f"Prices rose on {share:.1%} of the test days" in told(0.5)
    assert "no model is more accurate" in told(0.5)
    assert "no clear difference" in told(share + 0.01)
    assert "more than two standard errors beyond that" in told(share + 0.03)


def test_the_comment_says_where_an_auc_is_undefined(models: dict[Kind, TrainedModel]) -> None:
    model = models["logistic"]
    without = replace(model, metrics=always_long(model.split))
    assert "AUC is undefined on the" in comment([without])
    assert EXPECTED not in comment([without])
    assert "1 of 1 models have an AUC within two standard errors of 0.5, 1 has none" in comment(
        [without, with_auc(model, validation=NEAR, test=NEAR)]
    )


def test_prices_that_only_rise_are_refused_before_training() -> None:
    bars = load_bars("nasdaq")
    rising = replace(bars, open=np.linspace(100, 200, len(bars)))
    with pytest.raises(DataError, match="every training row has the label 1"):
        train_on(rising, "logistic")


def test_a_file_of_prices_trains_a_model_named_after_it(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    close = 50 * np.exp(np.cumsum(generator.normal(0, 0.01, 1100)))
    lines = ["Date,Open,High,Low,Close,Volume"]
    for day, price in enumerate(close):
        session = np.datetime64("2015-01-01") + day
        lines.append(f"{session},{price:.2f},{price * 1.02:.2f},{price * 0.98:.2f},{price:.2f},{1000 + day % 97}")
    (tmp_path / "Acme Corp.csv").write_text("\n".join(lines))
    assert train_and_package(tmp_path / "Acme Corp.csv", "logistic", tmp_path) == tmp_path / "acme-corp-logistic" / "1"


def test_a_name_too_long_for_a_model_is_refused_before_training() -> None:
    bars = replace(load_bars("nasdaq"), name="x" * 60)
    with pytest.raises(DataError, match="rename the file"):
        train_on(bars, "logistic")


def test_reading_test_rows_imports_nothing_slow() -> None:
    code = (
        "import sys; from mlops.training import test_rows; test_rows('sp500');"
        "print(*{'sklearn', 'pandas', 'scipy', 'arch', 'onnxruntime', 'exchange_calendars'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_digest_does_not_follow_the_order_of_sets(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from mlops.training import build, train;"
        "print(build(train('sp500', 'boosting'), Path(sys.argv[1])).name)"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(digests) == 1
