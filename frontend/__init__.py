"""The web page: takes a photo, asks TorchServe over HTTP, shows the verdict.

It knows nothing of the network or its weights; docs/openapi.yaml is all it relies on.
"""
