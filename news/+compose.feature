``examples/compose`` is an installation for Docker Compose, with web servers and workers from one image;
``make example-compose-local`` runs it without Docker.
