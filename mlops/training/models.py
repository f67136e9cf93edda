"""The four estimators: scikit-learn pipelines with their preprocessing inside, seeded, small."""

from typing import Any, Literal, get_args

Kind = Literal["logistic", "forest", "boosting", "mlp"]
KINDS: tuple[Kind, ...] = get_args(Kind)

#: What each estimator is, for the manifest and for people.
TITLES: dict[Kind, str] = {
    "logistic": "logistic regression",
    "forest": "random forest",
    "boosting": "gradient boosting",
    "mlp": "multilayer perceptron",
}


def make_estimator(kind: Kind, *, seed: int) -> Any:
    """An unfitted `sklearn.pipeline.Pipeline` that classifies rows of raw features.

    Trees split on order alone and take the features as they are; the other two need them on one scale. All are held
    back strongly, because daily returns hold next to no signal, and none stops early, because that would validate on
    rows picked at random.
    """
    from sklearn.pipeline import make_pipeline

    match kind:
        case "logistic":
            from sklearn.linear_model import LogisticRegression
            from sklearn.preprocessing import StandardScaler

            return make_pipeline(StandardScaler(), LogisticRegression(C=0.01))
        case "forest":
            from sklearn.ensemble import RandomForestClassifier

            return make_pipeline(
                RandomForestClassifier(n_estimators=100, min_samples_leaf=20, n_jobs=1, random_state=seed)
            )
        case "boosting":
            from sklearn.ensemble import GradientBoostingClassifier

            return make_pipeline(
                GradientBoostingClassifier(
                    n_estimators=100, max_depth=2, learning_rate=0.05, subsample=0.5, random_state=seed
                )
            )
        case "mlp":
            from sklearn.neural_network import MLPClassifier
            from sklearn.preprocessing import StandardScaler

            return make_pipeline(
                StandardScaler(),
                MLPClassifier((8,), solver="lbfgs", alpha=30.0, max_iter=500, random_state=seed),
            )
