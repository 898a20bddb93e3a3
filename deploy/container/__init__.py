"""What the images run; see the Dockerfile."""
