// The numbers of couloir/audio, inference/transcript.py, windows.py, backend.py and recognizer.py.
// tests/web/test_modules.py fails when one differs from Python's.

export const SAMPLE_RATE = 16000;
/** A recording that lacks more than this of what its header promises is cut short. */
export const MISSING_ALLOWED_S = 0.1;
/** Samples are nominally in [-1, 1]; beyond this they are of another scale. */
export const LOUDEST = 64;
/** Channels cancel each other where their mean has less than this share of the loudest one's amplitude. */
export const CANCELLED = 0.1;

/** Recordings longer than this are cut into windows, which share at least OVERLAP_S. */
export const WINDOW_S = 30;
export const OVERLAP_S = 4;
/** Windows begin at multiples of this many samples where a model's file says nothing else. */
export const STEP_SAMPLES = 2560;
/** The seam between two windows is where they agree best over this time on either side. */
export const NEIGHBOURHOOD_S = 0.12;

/** Where the first output frame begins, if the model's file says nothing else. */
export const FRONT_END_DELAY_S = 0.035;
/** Neighbours no further apart than this touch, ... */
export const LONGEST_BRIDGE_S = 0.2;
/** ... and this share of the blank frames between them belongs to the first. */
export const BLANKS_OF_FIRST = 1 / 3;
/** How far a symbol beside silence reaches beyond its frames. */
export const REACH_BEFORE_S = 0.05;
export const REACH_AFTER_S = 0.1;

/** Geometry of icefall's models, in feature frames: what a file that says nothing of it has. */
export const USUAL_GEOMETRY = { embedding_factor: 2, embedding_margin: 7, window_step: 16 };
export const MAX_GEOMETRY_FRAMES = 1000;
/** A run on silence that has that many frames after the embedding shows the distance of the output frames. */
export const PROBE_EMBEDDED = 25;
