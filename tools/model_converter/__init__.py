"""The command line of LightX2V's ``tools/model_converter``, as a translation to recipes of transcode."""
