"""What touches the world outside: audio, pictures, downloads. Imports more than torch, when called."""
