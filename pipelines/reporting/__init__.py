"""Parts of HTML reports: spectrograms and audio clips."""
