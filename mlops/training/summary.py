"""What the figures of trained models mean, in one paragraph."""

from collections.abc import Sequence

from mlops.training.fitting import TrainedModel


def comment(models: Sequence[TrainedModel]) -> str:
    """Says whether the models of one data set rank test days any better than chance, and what to make of it.

    Parameters
    ----------
    models : sequence of TrainedModel
        At least one, all of one data set.
    """
    rows = models[0].split.test
    near: list[str] = []
    beyond: list[str] = []
    for model in models:
        figure = model.metrics["test"].get("auc")
        if figure is not None and figure.standard_error is not None:
            is_near = abs(figure.value - 0.5) <= 2 * figure.standard_error
            (near if is_near else beyond).append(model.kind)
    share = float(rows.labels.mean())
    text = (
        f"AUC near 0.5 on validation and test is the expected result and no fault: {len(near)} of "
        f"{len(near) + len(beyond)} models lie within two standard errors of 0.5 over {len(rows)} test days. "
        "Past daily prices of an index say next to nothing about its next day, and ten public features cannot change "
        "that; nothing here looks ahead and nothing was tuned on the test days, so nothing flatters the figures. "
        f"Accuracy and Sharpe ratio above chance come from {share:.0%} of the test days going up: compare with "
        "`always long`. These models are there to be served, not traded."
    )
    if beyond:
        text += (
            f" {', '.join(beyond)} lies further from 0.5 than that: suspect the data first (stale prices, splits that "
            f"are not adjusted for), then luck, since {len(models)} were tried."
        )
    return text
