"""Device profiles: one TOML a device, the schema, the loader."""
