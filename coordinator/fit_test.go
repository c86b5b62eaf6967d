package coordinator

import (
	"slices"
	"testing"
)

func TestImagesOfAManifest(t *testing.T) {
	for text, want := range map[string]images{
		`{"schema_version":1,"name":"x","shape":[3,32,32],"dtype":"U8","classes":["a`:  {Shape: []int{3, 32, 32}, DType: "U8"},
		`{"dtype":"F32","classes":[],"objects":[{"digest":"d"}],"shape":[4],"more":1}`: {Shape: []int{4}, DType: "F32"},
		`{"shape":[3,32,32],"dty`:             {},
		`{"shape":"x","dtype":"U8"}`:          {},
		`[1]`:                                 {},
		``:                                    {},
		`{"schema_version":1}`:                {},
		`{"shape":[1e99],"dtype":"U8"}`:       {},
		"\x08\x0a\x72\x03 no manifest at all": {},
	} {
		if got := imagesOf([]byte(text)); !slices.Equal(got.Shape, want.Shape) || got.DType != want.DType {
			t.Errorf("%.40q: %+v, want %+v", text, got, want)
		}
	}
}
