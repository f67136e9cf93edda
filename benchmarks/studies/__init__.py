"""Long simulations (`make studies`); their reports are committed in docs/studies/."""
