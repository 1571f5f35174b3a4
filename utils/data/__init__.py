"""Files and tables: manifests, audio, mouth crops, estimates, done marks. No network is built here."""
