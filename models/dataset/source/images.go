package source

import (
	"bytes"
	"fmt"
	"image"
	_ "image/jpeg" // decodes pictures
	_ "image/png"  // decodes pictures
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/image/draw"
	"golang.org/x/sync/errgroup"

	"idunno/models/dataset"
)

// Limits of pictures. A decoder needs up to eight bytes a pixel.
const (
	maxSide        = 1 << 14    // height and width that pictures may be scaled to
	maxPixels      = 40_000_000 // of one picture
	manyPixels     = 4_000_000  // of pictures above it one is decoded at a time
	maxBetween     = 16_000_000 // places half-way between a picture and a scaled one
	maxPictureFile = 256 << 20  // bytes
	maxPictures    = 20_000_000 // in a folder
	maxDepth       = 32         // folders inside of a class's folder
)

// picture says how pictures become images of one shape.
type picture struct {
	channels      int
	resize, crop  [2]int
	height, width int
	large         *sync.Mutex
}

// newPicture takes what the options leave open from the first picture.
func newPicture(o *Options, first image.Config) *picture {
	p := &picture{channels: o.Channels, resize: o.Resize, crop: o.Crop, large: new(sync.Mutex)}
	if p.channels == 0 {
		p.channels = 3
		if isGrey(first) {
			p.channels = 1
		}
	}
	if p.crop[0] > 0 && p.crop[1] == 0 {
		p.crop[1] = p.crop[0]
	}
	p.height, p.width = p.scaled(first.Height, first.Width)
	if p.crop[0] > 0 {
		p.height, p.width = p.crop[0], p.crop[1]
	}
	return p
}

// isGrey reports whether a picture has one channel.
func isGrey(c image.Config) bool {
	m := c.ColorModel
	return m == image.NewGray(image.Rectangle{}).ColorModel() || m == image.NewGray16(image.Rectangle{}).ColorModel()
}

// scaled is the size that a picture of height and width is scaled to.
func (p *picture) scaled(height, width int) (int, int) {
	switch short := p.resize[0]; {
	case short == 0:
		return height, width
	case p.resize[1] > 0:
		return p.resize[0], p.resize[1]
	case height <= width:
		return short, max(int(int64(width)*int64(short)/int64(height)), 1)
	default:
		return max(int(int64(height)*int64(short)/int64(width)), 1), short
	}
}

// checkPicture reads a picture's header and compares it with the limits.
func checkPicture(r io.Reader) (image.Config, error) {
	c, _, err := image.DecodeConfig(r)
	if err != nil {
		return c, fmt.Errorf("no PNG or JPEG picture (%w): %w", err, dataset.ErrFormat)
	}
	if c.Width < 1 || c.Height < 1 || int64(c.Width)*int64(c.Height) > maxPixels {
		return c, fmt.Errorf("a picture of %d x %d pixels, at most %d in all: %w", c.Width, c.Height, maxPixels, dataset.ErrTooLarge)
	}
	return c, nil
}

// decode makes an image of a picture: channels first, a byte a value. What is
// transparent is black.
func (p *picture) decode(r io.ReadSeeker, out []byte) error {
	c, err := checkPicture(r)
	if err != nil {
		return err
	}
	height, width := p.scaled(c.Height, c.Width)
	// Scaling goes by columns first, which takes 32 bytes for each place.
	between := int64(width) * int64(c.Height)
	if int64(c.Width)*int64(c.Height) > manyPixels || between > manyPixels {
		p.large.Lock()
		defer p.large.Unlock()
	}
	if int64(height)*int64(width) > maxPixels || p.resize[0] > 0 && between > maxBetween {
		return fmt.Errorf("a picture of %d x %d becomes one of %d x %d, which takes more memory than %d pixels do: %w", c.Width, c.Height, width, height, maxPixels, dataset.ErrTooLarge)
	}
	if height < p.height || width < p.width || p.crop[0] == 0 && (height != p.height || width != p.width) {
		if p.resize[0] == 0 {
			return fmt.Errorf("the picture has %d x %d pixels, the set's images %d x %d: give a size to scale all of them to: %w", c.Width, c.Height, p.width, p.height, ErrOption)
		}
		return fmt.Errorf("the picture of %d x %d becomes one of %d x %d, the set's images have %d x %d: scale to height and width, or cut out of the middle: %w",
			c.Width, c.Height, width, height, p.width, p.height, ErrOption)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return err
	}
	src, _, err := image.Decode(r)
	if err != nil {
		return fmt.Errorf("a broken picture (%w): %w", err, dataset.ErrFormat)
	}
	// Red, green, blue and opacity, the colours multiplied by it.
	dst := image.NewRGBA(image.Rect(0, 0, width, height))
	if b := src.Bounds(); b.Dx() == width && b.Dy() == height {
		draw.Draw(dst, dst.Bounds(), src, b.Min, draw.Src)
	} else {
		draw.BiLinear.Scale(dst, dst.Bounds(), src, b, draw.Src, nil)
	}
	p.cut(dst, out)
	return nil
}

// cut takes the middle of a picture into an image.
func (p *picture) cut(src *image.RGBA, out []byte) {
	top, left := (src.Rect.Dy()-p.height)/2, (src.Rect.Dx()-p.width)/2
	plane := p.height * p.width
	for y := range p.height {
		row := src.Pix[(top+y)*src.Stride+4*left:]
		for x := range p.width {
			px, at := row[4*x:4*x+3:4*x+3], y*p.width+x
			if p.channels == 1 {
				// ITU-R BT.601, as in image/color; grey stays what it is.
				out[at] = byte((19595*uint32(px[0]) + 38470*uint32(px[1]) + 7471*uint32(px[2]) + 1<<15) >> 16)
				continue
			}
			for c, v := range px {
				out[c*plane+at] = v
			}
		}
	}
}

// shape of the images.
func (p *picture) shape() []int { return []int{p.channels, p.height, p.width} }

// pictureFile is a file of a folder.
type pictureFile struct {
	name  string
	label int32
}

// folder is a folder of pictures.
type folder struct {
	*picture
	files    []pictureFile
	labelled bool
	done     int
}

// openImages opens a folder of pictures. Its folders are the classes, in the order of
// their names; pictures that lie in it directly have no labels.
func openImages(path string, o *Options) (*table, error) {
	dir := path
	if o.Split != "" {
		if dir = partFolder(path, o.Split); dir == "" {
			dir = path
		}
	} else if partFolder(path, Train) != "" && partFolder(path, Test) != "" {
		dir = partFolder(path, Test)
	}
	f := &folder{}
	classes, err := f.list(dir)
	if err != nil {
		return nil, err
	}
	if len(f.files) == 0 {
		return nil, fmt.Errorf("%s: no .png, .jpg or .jpeg files in it or in folders, one a class: %w", dir, dataset.ErrNotFound)
	}
	f.labelled = len(classes) > 0 && o.Labels != None
	first, err := firstPicture(f.files[0].name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.files[0].name, err)
	}
	f.picture = newPicture(o, first)
	t := &table{rows: f, images: len(f.files), shape: f.shape(), native: dataset.U8, labelled: f.labelled, source: "pictures in " + filepath.Base(dir)}
	if f.labelled {
		t.classes = classes
	}
	for _, p := range f.files {
		t.files = append(t.files, p.name)
	}
	return t, nil
}

// partFolder is the folder that holds a part of the set, "" when there is none.
func partFolder(path, part string) string {
	names := []string{part}
	if part == Test {
		names = []string{"test", "val", "valid", "validation"}
	}
	for _, name := range names {
		if info, err := os.Stat(filepath.Join(path, name)); err == nil && info.IsDir() {
			return filepath.Join(path, name)
		}
	}
	return ""
}

// list finds the pictures and returns the classes.
func (f *folder) list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // by name
	if err != nil {
		return nil, err
	}
	var classes []string
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		before := len(f.files)
		if err := f.walk(filepath.Join(dir, e.Name()), int32(len(classes)), 0); err != nil {
			return nil, err
		}
		if len(f.files) > before {
			classes = append(classes, e.Name())
		}
	}
	if len(classes) > 0 {
		for _, e := range entries {
			if isPicture(e.Name()) && e.Type().IsRegular() {
				return nil, fmt.Errorf("%s holds both pictures and folders of classes (%s): put every picture into the folder of its class: %w",
					dir, e.Name(), dataset.ErrFormat)
			}
		}
		return classes, nil
	}
	return nil, f.walk(dir, 0, maxDepth)
}

// walk takes the pictures of a folder and, up to maxDepth deep, of those inside of it.
func (f *folder) walk(dir string, label int32, depth int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."):
		case e.IsDir() && depth < maxDepth:
			if err := f.walk(name, label, depth+1); err != nil {
				return err
			}
		case isPicture(e.Name()) && !e.IsDir():
			if len(f.files) >= maxPictures {
				return fmt.Errorf("more than %d pictures: %w", maxPictures, dataset.ErrTooLarge)
			}
			f.files = append(f.files, pictureFile{name, label})
		}
	}
	return nil
}

func isPicture(name string) bool {
	return slices.Contains([]string{".png", ".jpg", ".jpeg"}, strings.ToLower(filepath.Ext(name)))
}

func firstPicture(name string) (image.Config, error) {
	f, err := openFile(name)
	if err != nil {
		return image.Config{}, err
	}
	defer f.Close()
	return checkPicture(io.LimitReader(f, maxPictureFile))
}

// read decodes the next n pictures, several at a time.
func (f *folder) read(n int, b *block) error {
	per := product(f.shape())
	b.u8 = make([]byte, n*per)
	files := f.files[f.done : f.done+n]
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, p := range files {
		group.Go(func() error {
			return guard(func() error {
				if err := f.decodeFile(p.name, b.u8[i*per:(i+1)*per]); err != nil {
					return fmt.Errorf("%s: %w", p.name, err)
				}
				return nil
			})
		})
		if f.labelled {
			b.y = append(b.y, p.label)
		}
	}
	f.done += n
	return group.Wait()
}

func (f *folder) decodeFile(name string, out []byte) error {
	file, err := openFile(name)
	if err != nil {
		return err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || info.Size() > maxPictureFile {
		return fmt.Errorf("a file of more than %d bytes: %w", maxPictureFile, dataset.ErrTooLarge)
	}
	return f.decode(file, out)
}

// decodeBytes decodes a picture that lies in memory.
func (p *picture) decodeBytes(data, out []byte) error { return p.decode(bytes.NewReader(data), out) }

func (f *folder) skip(n int) error { f.done += n; return nil }
func (f *folder) end() error       { return nil }
func (f *folder) Close() error     { return nil }
