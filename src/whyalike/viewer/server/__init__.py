"""The room to look around in: a gallery as a local web app, `whyalike serve`."""
