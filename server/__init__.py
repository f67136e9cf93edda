"""The model server: one process that answers predictions and reconciles to desired state."""
