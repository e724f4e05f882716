"""The command line of LightX2V's ``tools/convert``, as a translation to recipes of transcode."""
