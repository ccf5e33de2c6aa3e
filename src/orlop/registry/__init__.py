"""An OCI registry (distribution-spec 1.1) that runs inside the process, for tests, demonstrations and small sites."""
