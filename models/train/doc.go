// Package train trains the two networks that iDunno brings along, a multilayer
// perceptron ("mlp") and a convolutional network ("cnn"), on one machine, and
// writes the result as a standard ONNX model.
//
// A run is a pure function of the data set and the Config: every random choice
// comes from the seed, every minibatch is cut into the same eight shards whatever
// the number of threads, and the shards' gradients are added in a fixed order. So
// two runs give the same bytes on machines whose processors round alike.
//
// It is no framework: the layers are those that the two networks need, the
// gradients are written by hand, and nothing here runs a model that somebody else
// made.
package train
