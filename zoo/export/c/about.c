/* A network in 8-bit integers, written by the zoo with format=c: C99, without malloc and without any library.

   zoo_scores() computes one image. Scores are logits in units of 1 / ZOO_SCORES_PER_LOGIT; the largest one belongs to
   the predicted class. It is not reentrant, since all activations are in one static array of ZOO_ARENA_BYTES.
   ZOO_CONSTANT_BYTES is the size of all weights and tables, without code. A pixel p is normalised and then rounded to
   an integer q by a table; the network reads (q - ZOO_INPUT_ZERO_POINT) * ZOO_INPUT_SCALE.

   With -DZOO_MAIN, a program reads images of ZOO_IMAGE_BYTES bytes each from stdin, and prints their scores. */
