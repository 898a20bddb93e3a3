"""From labelled photos to ``saved_model.pth``: crop, train, evaluate, diagnostic."""
