"""What the HTTP services of Atelier do alike: authentication, access log, problem documents, settings, webhooks, streams."""
