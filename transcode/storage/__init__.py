"""The writing side: outputs under temporary names until they are whole."""
