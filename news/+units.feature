Durations and sizes may have units (``10m``, ``2h``, ``64KB``), ``type`` may be left out if the url says it, and a
mistake in the configuration is one sentence, with the key that was probably meant, and without a traceback.
