"""Where the eye rests: scanpath files, gaze models and fixation masks."""
